"""Fixtures for the tests of the DHT's services."""

from __future__ import annotations

import random

import pytest

from lattica.dht.testing import MemoryNetwork


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(random.Random(5))
