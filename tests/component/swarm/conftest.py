"""For all tests of this folder: a machine that stalls for some seconds fails none of them."""

from __future__ import annotations

import pytest
from patience import SWARM, be_patient


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch, *SWARM)
