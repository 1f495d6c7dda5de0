"""The ``lab`` fixture and the ``netns`` marker.

Switch it on in the top ``conftest.py`` with ``pytest_plugins = ["netlab.pytest_plugin"]``.
"""

from collections.abc import Iterator

import pytest

from netlab.lab import Lab, open_lab
from netlab.requirements import unavailable_reason


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab, for this test alone."""
    with open_lab() as opened:
        yield opened


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "netns: needs root and network namespaces")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a lab, and skip what is marked where no lab can run."""
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.netns)
    if reason := unavailable_reason():
        for item in items:
            if item.get_closest_marker("netns"):
                item.add_marker(pytest.mark.skip(reason=f"no netlab: {reason}"))
