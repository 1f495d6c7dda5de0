"""One node's part of a gauge that all nodes of the process share."""

from __future__ import annotations

from prometheus_client import Gauge


class SharedGauge:
    """Sets its own part, where `Gauge.set` would overwrite everybody's."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._part = 0
        self._ended = False

    def set(self, value: int) -> None:
        """This part is ``value`` from now on; without effect after `end`."""
        if not self._ended:
            self._gauge.inc(value - self._part)
            self._part = value

    def end(self) -> None:
        """Take this part away for good."""
        self.set(0)
        self._ended = True
