"""Where the files of a fetch go."""

from __future__ import annotations

import os
from pathlib import Path

from lattica.content.manifest import FileEntry, Manifest
from lattica.errors import SourceError


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """Refuse early what would be refused after the fetch; blocks on the disk.

    Raises:
        SourceError: ``destination`` is a file, and ``overwrite`` is false.
    """
    if destination.exists() and not destination.is_dir() and not overwrite:
        raise SourceError(destination, "it exists; choose another destination, or overwrite it")


def plan_export(manifest: Manifest, destination: Path, *, overwrite: bool) -> dict[Path, FileEntry]:
    """The files to make and what goes into each; blocks on the disk.

    A single file becomes ``destination``, or goes into it if that is a directory. Several go into ``destination``.

    Raises:
        SourceError: Something is in the way.
    """
    if is_single_file(manifest) and not destination.is_dir():
        plan = {destination: manifest.files[0]}
    elif destination.exists() and not destination.is_dir():
        raise SourceError(destination, "it is a file; several files need a directory")
    else:
        plan = {destination / entry.path: entry for entry in manifest.files}
    _check_writable(destination)
    for path in plan:
        if path.is_dir() and not path.is_symlink():
            raise SourceError(path, "a directory is in the way; choose another destination")
        if not overwrite and (path.exists() or path.is_symlink()):
            raise SourceError(path, "it exists; choose another destination, or overwrite it")
    return plan


def _check_writable(destination: Path) -> None:
    """Refuse a place where nothing can be made; that something can is not promised."""
    nearest = next(path for path in (destination.absolute(), *destination.absolute().parents) if path.exists())
    directory = nearest if nearest.is_dir() else nearest.parent
    if nearest in destination.absolute().parents and not nearest.is_dir():
        raise SourceError(destination, f"{nearest} is a file; choose another destination")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise SourceError(destination, f"this user may not write to {directory}; choose another destination")


def exported_path(manifest: Manifest, plan: dict[Path, FileEntry], destination: Path) -> Path:
    """What a fetch has made: the file, or the directory with the files."""
    return next(iter(plan)) if is_single_file(manifest) else destination


def is_single_file(manifest: Manifest) -> bool:
    """Whether the manifest is of a file, not of a directory."""
    return len(manifest.files) == 1 and "/" not in manifest.files[0].path
