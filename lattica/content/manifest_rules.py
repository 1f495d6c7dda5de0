"""What a manifest must satisfy, whether we are about to publish it or a peer sent it.

Every check raises `ValueError` with a reason that completes the sentence "the manifest … is not acceptable: …".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from lattica.content.cid import DIGEST_SIZE
from lattica.content.manifest_limits import (
    MAX_CHUNK,
    MAX_FILES,
    MAX_NAME,
    MAX_PATH,
    MAX_PATH_PART,
    MAX_PATH_PARTS,
    MAX_RUNS,
    MAX_TOTAL_SIZE,
)
from lattica.content.safetensors import is_utf8, tensor_size

if TYPE_CHECKING:
    from lattica.content.manifest import ChunkRun, FileEntry, Manifest, TensorEntry

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def check_manifest(manifest: Manifest) -> None:
    """Everything below, and that the files fit together."""
    if not is_utf8(manifest.name, MAX_NAME) or _CONTROL.search(manifest.name):
        raise ValueError(f"its name is longer than {MAX_NAME} bytes or has control characters")
    if not 1 <= len(manifest.files) <= MAX_FILES:
        raise ValueError(f"it lists {len(manifest.files)} files; 1 to {MAX_FILES} are allowed")
    if sum(len(entry.runs) for entry in manifest.files) > MAX_RUNS:
        raise ValueError(f"it lists more than {MAX_RUNS} runs")
    for entry in manifest.files:
        check_file(entry)
    if manifest.size > MAX_TOTAL_SIZE:
        raise ValueError(f"it claims {manifest.size} bytes; {MAX_TOTAL_SIZE} are the most")
    check_tree([entry.path for entry in manifest.files])


def check_path(path: str) -> None:
    """A path is relative and stays in its directory, on every system."""
    if not is_utf8(path, MAX_PATH):
        raise ValueError(f"the path {path[:100]!r} is longer than {MAX_PATH} bytes or not Unicode")
    if "\\" in path or _CONTROL.search(path) or _DRIVE.match(path):
        raise ValueError(f"the path {path!r} has a backslash, a control character or a drive letter")
    parts = path.split("/")
    if len(parts) > MAX_PATH_PARTS:
        raise ValueError(f"the path {path[:100]!r} is more than {MAX_PATH_PARTS} directories deep")
    for part in parts:
        if part in {"", ".", ".."}:
            raise ValueError(f"the path {path!r} is absolute, empty or has a part {part!r}")
        if not is_utf8(part, MAX_PATH_PART):
            raise ValueError(f"the path {path[:100]!r} has a part of more than {MAX_PATH_PART} bytes")


def check_tree(paths: Sequence[str]) -> None:
    """Paths are sorted, each there once, and none is a directory of another."""
    for before, after in pairwise(paths):
        if before >= after:
            raise ValueError(f"{after!r} is listed twice or out of order")
    files = set(paths)
    for path in paths:
        at = path.find("/")
        while at >= 0:
            if path[:at] in files:
                raise ValueError(f"{path[:at]!r} is both a file and a directory")
            at = path.find("/", at + 1)


def check_file(entry: FileEntry) -> None:
    """A file's runs add up to it, and its tensors are runs."""
    check_path(entry.path)
    if len(entry.digest) != DIGEST_SIZE:
        raise ValueError(f"the digest of {entry.path!r} does not have {DIGEST_SIZE} bytes")
    for run in entry.runs:
        _check_run(entry, run)
    if sum(run.length for run in entry.runs) != entry.size:
        raise ValueError(f"the runs of {entry.path!r} do not add up to its {entry.size} bytes")
    _check_tensors(entry, entry.tensors)


def _check_run(entry: FileEntry, run: ChunkRun) -> None:
    if not 1 <= run.chunk_size <= MAX_CHUNK:
        raise ValueError(f"{entry.path!r} has chunks of {run.chunk_size} bytes; 1 to {MAX_CHUNK} are allowed")
    if run.length > MAX_TOTAL_SIZE or len(run.digests) != run.chunk_count * DIGEST_SIZE:
        raise ValueError(f"a run of {run.length} bytes in {entry.path!r} has {len(run.digests)} bytes of digests")


def _check_tensors(entry: FileEntry, tensors: Iterable[TensorEntry]) -> None:
    names: set[str] = set()
    runs: set[int] = set()
    for tensor in tensors:
        if not tensor.name or not is_utf8(tensor.name, MAX_NAME) or tensor.name in names:
            raise ValueError(f"a tensor name in {entry.path!r} is empty, too long, or there twice")
        if tensor.run >= len(entry.runs) or tensor.run in runs:
            raise ValueError(f"tensor {tensor.name!r} shares its run with another, or has none")
        if tensor_size(tensor.dtype, tensor.shape) != entry.runs[tensor.run].length:
            what = f"{tensor.dtype[:20]!r} and shape {list(tensor.shape[:8])}"
            raise ValueError(f"tensor {tensor.name!r}: dtype {what} do not make the size of its run")
        names.add(tensor.name)
        runs.add(tensor.run)
