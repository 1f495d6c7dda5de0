"""Network namespaces as iproute2 keeps them: files in a folder, each with a namespace mounted on it."""

import ctypes
import errno
import os
from pathlib import Path

from netlab.commands import ip

NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def add(name: str) -> Path:
    """A new namespace, where `ip netns` finds it."""
    ip([f"netns add {name}"])
    return NAMESPACES / name


def remove(path: Path) -> None:
    """What `ip netns delete` does, without a process; what is inside ends with its last process or socket.

    Raises:
        FileNotFoundError: It is gone already.
    """
    try:
        _check(_libc.umount2(os.fsencode(path), MNT_DETACH), path)
    except OSError as error:
        if error.errno != errno.EINVAL:  # nothing is mounted any more, as on a file from before a reboot
            raise
    path.unlink()


def enter(path: Path) -> None:
    """Move the calling thread inside, for the rest of its life."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(handle, CLONE_NEWNET), path)
    finally:
        os.close(handle)


def _check(result: int, path: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
