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
DOCUMENTS_FILE = "documents.db"
LOCK_FILE = "lock"
RUNTIME_PREFIX = "lattica-"
MAX_RUNTIME_PATH = 80
"""Bytes of a runtime folder's path: a unix socket's may have 107, its name in the folder included (man 7 unix)."""


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
        except OSError as error:
            reason = f"cannot lock the home {home}: {error.strerror}; choose one on a local disk with --home"
            raise ConfigError(reason) from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """A new folder that only this user can open, with a path short enough for unix sockets in it.

    Folders that killed nodes left behind are removed: a node locks its own while it lives.

    Raises:
        ConfigError: There is no place for it.
    """
    base = _runtime_base()
    _sweep(base)
    # Named so that others sweep it when it is locked and no sooner: to them an unlocked one is a killed node's.
    unlocked = Path(tempfile.mkdtemp(prefix=f".{RUNTIME_PREFIX}", dir=base))
    folder = unlocked.with_name(unlocked.name[1:])
    descriptor = os.open(unlocked / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(folder)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _runtime_base() -> Path:
    choices = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - a private folder in it
    for choice in filter(None, choices):
        room = MAX_RUNTIME_PATH - len(RUNTIME_PREFIX) - 10  # mkdtemp adds 8
        if len(os.fsencode(choice)) <= room and os.access(choice, os.W_OK | os.X_OK):
            return Path(choice)
    tried = ", ".join(filter(None, choices))
    raise ConfigError(f"no folder for sockets: none of {tried} is writable and short; set XDG_RUNTIME_DIR to one")


def _sweep(base: Path) -> None:
    for lock in base.glob(f"{RUNTIME_PREFIX}*/{LOCK_FILE}"):
        with contextlib.suppress(OSError):  # another user's, or just removed by another node
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(descriptor)
