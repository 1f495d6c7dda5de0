"""How much memory a process takes while something happens: at most, and in the end."""

from __future__ import annotations

from pathlib import Path

_CLEAR_PEAK = "5"
"""What resets a process's high-water mark, written to its ``clear_refs``; see proc(5)."""


class PeakMemory:
    """The memory that a process has come to hold beyond what it held when this was made.

    Args:
        pid: The process, or ``"self"``; it must belong to the same user.
    """

    def __init__(self, pid: int | str) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text(_CLEAR_PEAK)
        self._before = self._field("VmRSS")

    def extra(self) -> int:
        """Bytes, at the peak."""
        return self._field("VmHWM") - self._before

    def held(self) -> int:
        """Bytes, now."""
        return self._field("VmRSS") - self._before

    def _field(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
        raise OSError(f"{self._folder}/status has no {name}")
