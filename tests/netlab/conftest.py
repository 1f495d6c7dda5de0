"""Fixtures of the tests in labs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab_nodes import LabNodes, lab_nodes

from netlab import Lab


@pytest.fixture
async def nodes(lab: Lab, tmp_path: Path) -> AsyncIterator[LabNodes]:
    """No nodes yet; those that the test starts end before its lab."""
    async with lab_nodes(tmp_path) as opened:
        yield opened
