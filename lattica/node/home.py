"""A node's folders: its home, which it holds alone, and a private one with short paths for sockets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lattica.errors import ConfigError, NodeRunningError

KEY_FILE = "identity.key"
STORE_FOLDER = "store"
LOCK_FILE = "lock"
RUNTIME_PREFIX = "lattica-"


@contextlib.contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Create the home folder if need be and hold it for this process.

    Raises:
        NodeRunningError: Another process holds it.
        ConfigError: It cannot be created or written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the home {home}: {error.strerror}; choose another with --home") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NodeRunningError(home) from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """A new folder that only this user can open, for unix sockets (whose paths have at most 107 bytes).

    Folders that killed nodes left behind are removed: a node locks its own while it lives.
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    _sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=base))
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    for lock in base.glob(f"{RUNTIME_PREFIX}*/{LOCK_FILE}"):
        with contextlib.suppress(OSError):  # another user's, or just removed by another node
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(descriptor)
