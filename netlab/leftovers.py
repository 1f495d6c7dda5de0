"""What labs left behind whose process was killed before it could clean up."""

from pathlib import Path

from netlab.names import LabId
from netlab.netns import NAMESPACES, remove
from netlab.processes import kill_all_in


def remove_lab(lab: LabId) -> None:
    """Remove whatever is there of one lab."""
    for name in _lab_namespaces():
        if LabId.parse(name) == lab:
            _remove(NAMESPACES / name)


def leftovers() -> list[str]:
    """Namespaces of labs whose process has ended; nobody else's, and no living lab's."""
    return [name for name in _lab_namespaces() if (lab := LabId.parse(name)) and not lab.alive()]


def sweep() -> list[str]:
    """Remove the leftovers, with the processes in them; returns the names."""
    found = leftovers()
    for name in found:
        _remove(NAMESPACES / name)
    return found


def _lab_namespaces() -> list[str]:
    if not NAMESPACES.is_dir():
        return []
    return sorted(entry.name for entry in NAMESPACES.iterdir() if LabId.parse(entry.name))


def _remove(path: Path) -> None:
    try:
        kill_all_in(path)
        remove(path)
    except FileNotFoundError:
        return  # another lab that starts at this moment was faster
