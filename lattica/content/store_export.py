"""Copying a file out of the store: complete and durable, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from lattica.content.store_files import READ_BLOCK, fsync_directory, write_all
from lattica.errors import SourceError

_FICLONE: Final = 0x40049409
"""ioctl of Linux that makes two files share their blocks until one is written (linux/fs.h)."""

_CANNOT: Final = {
    errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EISDIR, errno.EPERM, errno.ENOENT,
}  # fmt: skip
"""What file systems answer to operations that they do not have."""

_REASONS: Final = {
    errno.ENOSPC: "the disk is full; free some space, or choose another destination",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another destination",
    errno.EROFS: "it is on a read-only file system; choose another destination",
    errno.EACCES: "this user may not write there; choose another destination",
    errno.EPERM: "this user may not write there; choose another destination",
    errno.ENOTDIR: "a part of the path is a file; choose another destination",
    errno.EISDIR: "it is a directory; name the file to make in it",
    errno.ENAMETOOLONG: "the name is too long; choose another destination",
    errno.EIO: "the disk reports an input/output error; check the disk",
}


def export_file(source: int, size: int, destination: Path, *, overwrite: bool, draft: Draft | None = None) -> None:
    """Copy an open file of ``size`` bytes to ``destination``.

    Args:
        source: The file.
        size: Its bytes.
        destination: Where the copy goes.
        overwrite: Replace what is there.
        draft: A copy that is complete, but for its name; the caller closes it. Of no use on another file system.

    Raises:
        EOFError: The source has fewer bytes.
        SourceError: ``destination`` exists and ``overwrite`` is false, or it cannot be written.
    """
    try:
        if destination.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not overwrite and os.path.lexists(destination):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        _make_directories(destination.parent)
        if draft is not None and os.fstat(draft.descriptor).st_dev == destination.parent.stat().st_dev:
            _publish(draft, destination, overwrite=overwrite)
        else:
            with _draft(destination.parent) as draft:
                copy_file(source, draft.descriptor, size)
                _publish(draft, destination, overwrite=overwrite)
    except FileExistsError as error:
        raise SourceError(destination, "it exists; choose another destination, or allow overwriting") from error
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}")
        raise SourceError(destination, reason) from error


def _publish(draft: Draft, destination: Path, *, overwrite: bool) -> None:
    os.fsync(draft.descriptor)
    draft.publish(destination, overwrite=overwrite)
    fsync_directory(destination.parent)


def copy_file(source: int, target: int, size: int) -> None:
    """Make an empty file a copy of the first ``size`` bytes of another, sharing blocks where the file system can.

    Raises:
        EOFError: The source has fewer bytes.
        OSError: As the system says.
    """
    if os.fstat(source).st_size < size:
        raise EOFError
    if os.fstat(source).st_size == size and share_blocks(source, target):
        return
    copy_range(source, target, 0, size)


def share_blocks(source: int, target: int) -> bool:
    """Make the empty file ``target`` a copy that takes no time and no space, if the file system can."""
    return _tried(lambda: fcntl.ioctl(target, _FICLONE, source))


def copy_range(source: int, target: int, offset: int, end: int) -> None:
    """Copy bytes to the same place in another file; errors are those of `copy_file`."""
    while offset < end:
        count = _copy_in_kernel(source, target, end - offset, offset)
        if count is None:
            block = os.pread(source, min(READ_BLOCK, end - offset), offset)
            write_all(target, block, offset)
            count = len(block)
        if not count:
            raise EOFError
        offset += count


def _copy_in_kernel(source: int, target: int, length: int, offset: int) -> int | None:
    if not hasattr(os, "copy_file_range"):
        return None
    try:
        return os.copy_file_range(source, target, length, offset, offset)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return None


def _tried(operation: Callable[[], object]) -> bool:
    """Whether the file system can do it."""
    try:
        operation()
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


class Draft:
    """A file without a name, or with a temporary one where the file system cannot do that.

    Without a name it is gone when the process is killed.

    Attributes:
        name: The temporary one, if it has one.
        descriptor: Of the open file.
    """

    def __init__(self, directory: Path) -> None:
        self.name: Path | None = None
        self._directory = directory
        try:
            self.descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _CANNOT:
                raise
            self.name = self._new_name()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self.descriptor = os.open(self.name, flags, 0o666)

    def close(self) -> None:
        """Let go of it: without a name it is gone, a temporary name goes with it."""
        os.close(self.descriptor)
        if self.name is not None:
            self.name.unlink(missing_ok=True)

    def publish(self, destination: Path, *, overwrite: bool) -> None:
        """Give it its name; raises `FileExistsError` if that is taken and may not be replaced."""
        if not overwrite and _tried(lambda: self._link(destination)):
            return
        if self.name is None:
            name = self._new_name()
            self._link(name)
            self.name = name
        if not overwrite:  # a file system without links: take the name, then replace what we took it with
            os.close(os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        self.name.replace(destination)
        self.name = None

    def _link(self, target: Path) -> None:
        if self.name is None:
            # Only with a directory descriptor does Python call linkat, which can follow this symbolic link.
            os.link(f"/proc/self/fd/{self.descriptor}", target, src_dir_fd=self.descriptor, follow_symlinks=True)
        else:
            os.link(self.name, target)

    def _new_name(self) -> Path:
        return self._directory / f".lattica-{secrets.token_hex(8)}.tmp"


@contextlib.contextmanager
def _draft(directory: Path) -> Iterator[Draft]:
    draft = Draft(directory)
    try:
        yield draft
    finally:
        draft.close()


def _make_directories(path: Path) -> None:
    """Make a directory and its parents, durably."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    for each in missing:
        fsync_directory(each.parent)
