"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings
from lab_nodes import LabNodes, lab_nodes

from netlab import Lab

pytest_plugins = ["netlab.pytest_plugin"]

# No deadlines, which a machine that is busy for a moment breaks, and the same examples in every run. `make fuzz` looks
# for others.
settings.register_profile("fuzz", settings.get_profile("ci"), max_examples=2000, derandomize=False)
settings.load_profile("ci")


@pytest.fixture
async def nodes(lab: Lab, tmp_path: Path) -> AsyncIterator[LabNodes]:
    """No nodes in the lab yet; those that the test starts end before it."""
    async with lab_nodes(tmp_path) as opened:
        yield opened
