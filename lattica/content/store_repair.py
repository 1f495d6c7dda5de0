"""Bringing files and index together when a store is opened, whatever happened when it was last used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from lattica.content.cid import Cid
from lattica.content.manifest import FileEntry, Manifest
from lattica.content.store_disk import StoreDisk, file_size
from lattica.content.store_files import TEMPORARY_PREFIX, blob_digest, store_errors
from lattica.errors import ContentError, MalformedCidError

logger = logging.getLogger(__name__)


def repair(disk: StoreDisk) -> None:
    """Delete what nobody needs, and make the index anew where it is behind the files.

    It is so after a power loss, a kill in the wrong moment, or when somebody has deleted it. Partial files are not
    looked at here: their chunks are hashed again when they are opened.

    Raises:
        StoreError: The disk failed.
    """
    with store_errors(disk.paths.root):
        _delete_temporaries(disk)
        _match_roots(disk)
        _match_images(disk)
        _delete_strays(disk)


def _delete_temporaries(disk: StoreDisk) -> None:
    for directory in (disk.paths.partial, disk.paths.manifests):
        for path in directory.glob(TEMPORARY_PREFIX + "*"):
            path.unlink(missing_ok=True)


def _match_roots(disk: StoreDisk) -> None:
    """The index knows exactly the manifests that are there."""
    stored = {cid.to_bytes(): cid for cid in stored_roots(disk)}
    known = disk.index.roots()
    for raw in known - stored.keys():
        disk.index.drop_root(raw)
    for raw in stored.keys() - known:
        if manifest := _read_manifest(disk, stored[raw]):
            disk.index.add_root(raw, [entry.digest for entry in manifest.files])
    whole = {image.digest for image in disk.index.images() if image.layout is None}
    unknown = {digest for _, digest in _blob_files(disk.paths.blobs)} - whole
    if not any(disk.index.is_listed(digest) for digest in unknown):
        return
    for cid in stored.values():
        if manifest := _read_manifest(disk, cid):
            for entry in manifest.files:
                if entry.digest in unknown:
                    _adopt(disk, manifest, entry)


def _adopt(disk: StoreDisk, manifest: Manifest, entry: FileEntry) -> None:
    """Tell the index of a whole file that it has lost.

    Not hashed again: it was before it came among the blobs, and a provider's bytes are checked by whoever gets them.
    """
    if file_size(disk.paths.blob(entry.digest)) == entry.size:
        disk.add_whole(entry, manifest.hash)
        logger.info("blob added to the index digest=%s", entry.digest.hex())


def _match_images(disk: StoreDisk) -> None:
    """The index knows only files that are there and that a manifest lists."""
    for image in disk.index.images():
        if file_size(disk.path_of(image)) is None or not disk.index.is_listed(image.digest):
            disk.drop(image)


def _delete_strays(disk: StoreDisk) -> None:
    """Delete files that no manifest lists."""
    for directory in (disk.paths.blobs, disk.paths.partial):
        for path, digest in _blob_files(directory):
            if not disk.index.is_listed(digest):
                path.unlink(missing_ok=True)


def _blob_files(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in directory.iterdir():
        digest = blob_digest(path.name)
        if digest is not None:
            yield path, digest


def stored_roots(disk: StoreDisk) -> Iterator[Cid]:
    """The content IDs of the manifests on the disk."""
    for path in disk.paths.manifests.iterdir():
        try:
            yield Cid.parse(path.name)
        except MalformedCidError:
            logger.warning("not a manifest file=%s", path)


def _read_manifest(disk: StoreDisk, cid: Cid) -> Manifest | None:
    """The manifest; if it is damaged or gone, ``None``, and it is deleted."""
    path = disk.paths.manifest(cid)
    try:
        return Manifest.decode(cid, path.read_bytes())
    except (ContentError, FileNotFoundError) as error:
        logger.warning("manifest is damaged file=%s reason=%s", path, error)
        path.unlink(missing_ok=True)
        return None
