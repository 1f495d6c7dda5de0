"""The clock of pumps and their budgets, which stands still but for the test's word."""

from __future__ import annotations

import pytest

from lattica.mesh import movers, pump


class PumpClock:
    """Instead of `time` in the pump's modules.

    The pump still waits in real time, for as long as it believes that it has to: it sees that time has gone on when it
    wakes, a hundredth of a second later if it has pairs without budget.

    Attributes:
        now: Seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self._began = 1000.0
        for module in (movers, pump):
            monkeypatch.setattr(module, "time", self)

    @property
    def passed(self) -> float:
        """Seconds since it was made."""
        return self.now - self._began

    def monotonic(self) -> float:
        """As the function of `time`."""
        return self.now
