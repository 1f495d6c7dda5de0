"""Publishing: a file or a directory becomes blobs in the store and a manifest."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lattica.content.cid import Cid, HashFunction
from lattica.content.manifest import Manifest
from lattica.content.manifest_limits import MAX_MANIFEST, MAX_TOTAL_SIZE
from lattica.content.manifest_rules import check_manifest
from lattica.content.publish_file import FilePublisher
from lattica.content.publish_tree import list_sources
from lattica.content.store import BlockStore
from lattica.content.store_staging import StagedFile
from lattica.errors import PublishCancelledError, SourceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What was published.

    Attributes:
        cid: The root CID; give it to those who shall fetch.
        manifest: What it points to.
        size: Bytes of all files.
        warnings: One sentence for each thing that its user should know, such as a corrupt safetensors header.
    """

    cid: Cid
    manifest: Manifest
    size: int
    warnings: tuple[str, ...]


def publish_path(
    store: BlockStore,
    path: Path,
    *,
    name: str | None = None,
    hash: HashFunction = HashFunction.BLAKE3,  # noqa: A002
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Published:
    """Copy a file, or a directory with all that is in it, into the store and describe it with a manifest.

    Blocks; run it in a thread. Symbolic links are treated as `list_sources` says. Publishing what is there already
    reads it and writes nothing.

    Args:
        store: Where to. It keeps a copy of its own, so the files may be edited afterwards.
        path: The file or directory.
        name: What to call it; the name of the file or directory if not given.
        hash: Makes all digests.
        progress: Called in this thread with the bytes done and the total.
        cancelled: Asked every few mebibytes; once it says true, the work ends with `PublishCancelledError`.

    Raises:
        PublishCancelledError: ``cancelled`` said so. As after every error, the store is as before.
        SourceChangedError: A file changed meanwhile.
        SourceError: There is nothing at ``path``, it cannot be read, or is not a file or directory.
        StoreError: The disk is full or failed.
    """
    sources = list_sources(path)
    if store.path.resolve().is_relative_to(path.resolve()):
        raise SourceError(path, "it contains the block store itself; name another directory")
    total = sum(source.size for source in sources)
    if total > MAX_TOTAL_SIZE:
        raise SourceError(path, f"it has {total} bytes; {MAX_TOTAL_SIZE} are the most. Publish it in parts")
    advance = _meter(path, total, progress, cancelled)
    files: list[StagedFile] = []
    warnings: list[str] = []
    with contextlib.ExitStack() as staged:
        for source in sources:
            advance(0)
            publisher = FilePublisher(store, source, hash, advance)
            staged.callback(publisher.blob.discard)
            files.append(publisher.run())
            if publisher.warning is not None:
                logger.warning("published in plain chunks: %s", publisher.warning)
                warnings.append(publisher.warning)
        manifest = Manifest(path.resolve().name if name is None else name, hash, tuple(file.entry for file in files))
        _check(path, manifest)
        cid = store.admit(manifest, files)
    logger.info("published cid=%s files=%d bytes=%d", cid, len(files), manifest.size)
    return Published(cid, manifest, manifest.size, tuple(warnings))


def _meter(
    path: Path, total: int, progress: Callable[[int, int], None] | None, cancelled: Callable[[], bool] | None
) -> Callable[[int], None]:
    """To be called with the bytes done since the last time; reports them, and ends the work if that is wanted."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        if cancelled is not None and cancelled():
            raise PublishCancelledError(path)
        done += count
        if progress is not None:
            progress(done, total)

    return advance


def _check(path: Path, manifest: Manifest) -> None:
    """Publish only what others accept."""
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise SourceError(path, f"its manifest would not be acceptable: {error}") from error
    size = len(manifest.encode())
    if size > MAX_MANIFEST:
        sizes = f"{size / 1e6:.0f} MB; {MAX_MANIFEST / 1e6:.0f} are the most"
        raise SourceError(path, f"its manifest would have {sizes}. Publish it in parts")
