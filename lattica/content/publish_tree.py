"""Which files are published when somebody names a file or a directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lattica.content.manifest_limits import MAX_FILES
from lattica.content.manifest_rules import check_path
from lattica.errors import SourceError

_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a link to a directory",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file to publish.

    Attributes:
        path: As its user would call it.
        target: What to open: ``path`` without symbolic links.
        name: Its path in the manifest.
        size: Bytes, when it was listed.
    """

    path: Path
    target: Path
    name: str
    size: int


def list_sources(path: Path) -> list[Source]:
    """The file at ``path``, or all files in the directory there and below, sorted by name.

    A symbolic link in a directory stands for the file that it points to, if that is in the directory as well: a
    downloaded model must not be able to point at somebody's keys. For a snapshot in a Hugging Face cache, whose files
    are links to ``../../blobs``, the model's whole folder counts.

    Raises:
        SourceError: There is nothing, or something that cannot be published.
    """
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return [_source(path, path.resolve(), path.name, status)]
        sources = sorted(_walk(path, _boundary(path.resolve())), key=lambda source: source.name)
    except OSError as error:
        raise source_error(path, error) from error
    if not sources:
        raise SourceError(path, "there is no file in this directory; put one there, or name another")
    return sources


def source_error(path: Path, error: OSError) -> SourceError:
    """What went wrong when a file was read, and what to do about it."""
    at = Path(error.filename) if isinstance(error.filename, str) else path
    match error:
        case FileNotFoundError():
            return SourceError(at, "there is no such file or directory; check the name")
        case PermissionError():
            return SourceError(at, "this user may not read it; change its permissions")
        case _:
            return SourceError(at, f"it cannot be read ({error.strerror or error})")


def _boundary(directory: Path) -> Path:
    return directory.parent.parent if directory.parent.name == "snapshots" else directory


def _walk(top: Path, boundary: Path) -> Iterator[Source]:
    count = 0
    directories = [top]
    while directories:
        with os.scandir(directories.pop()) as entries:
            found = list(entries)
        directories += [Path(each.path) for each in found if each.is_dir(follow_symlinks=False)]
        files = [each for each in found if not each.is_dir(follow_symlinks=False)]
        count += len(files)
        if count > MAX_FILES:
            raise SourceError(top, f"it has more than {MAX_FILES} files; publish parts of it")
        for each in files:
            path = Path(each.path)
            target = Path(os.path.realpath(path))  # Path.resolve has an exception of its own for loops
            if each.is_symlink() and not target.is_relative_to(boundary):
                reason = f"it links to {target}, outside of {top}; put a copy in its place, or publish that by itself"
                raise SourceError(path, reason)
            yield _source(path, target, path.relative_to(top).as_posix(), each.stat())


def _source(path: Path, target: Path, name: str, status: os.stat_result) -> Source:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "neither file nor directory")
        raise SourceError(path, f"it is {kind}; only files and directories can be published")
    try:
        check_path(name)
    except ValueError as error:
        raise SourceError(path, f"{error}; rename it") from error
    return Source(path, target, name, status.st_size)
