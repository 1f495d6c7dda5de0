"""The block store: files and chunks on disk, there after kill -9 and after power loss.

The design and its measurements are in docs/adr/0003-block-store.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lattica.content.cid import Cid, HashFunction
from lattica.content.index import Index
from lattica.content.manifest import FileEntry, Manifest
from lattica.content.store_descriptors import DescriptorCache
from lattica.content.store_disk import StoreDisk, current_boot, layout_of
from lattica.content.store_export import export_file
from lattica.content.store_files import StorePaths, fsync_directory, store_errors, write_durably
from lattica.content.store_growing import GrowingCopy
from lattica.content.store_partial import OpenBlobs, PartialBlob
from lattica.content.store_repair import repair
from lattica.content.store_staging import StagedBlob, StagedFile, admit
from lattica.errors import StoreError

__all__ = ["BlockStore", "PartialBlob"]


class BlockStore:
    """Files by digest, chunks by digest, manifests by CID, in one directory.

    Every method may block on the disk and may be called from any thread. A context manager, which closes it.
    """

    def __init__(self, disk: StoreDisk, lock: int) -> None:
        self._disk = disk
        self._lock_descriptor = lock
        self._open_blobs = OpenBlobs(disk)
        self._roots_lock = threading.RLock()  # held while manifests come and go, with their files

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store in ``path``, which is made if it does not exist.

        Files that no manifest lists are deleted then, so put a manifest before its files.

        Raises:
            StoreError: Another process has it, or it is read-only, damaged, from another version, not a directory.
        """
        paths = StorePaths(path.absolute())
        with contextlib.ExitStack() as undo:
            with store_errors(path):
                for directory in (paths.root, paths.blobs, paths.partial, paths.manifests):
                    directory.mkdir(parents=True, exist_ok=True)
                lock = _lock(paths)
            undo.callback(os.close, lock)
            index = Index(paths.index)
            undo.callback(index.close)
            disk = StoreDisk(paths, index, DescriptorCache(), current_boot())
            repair(disk)
            undo.pop_all()
            return cls(disk, lock)

    def close(self) -> None:
        """Close the index and let other processes in. Open blobs must be closed before; may be called again."""
        lock, self._lock_descriptor = self._lock_descriptor, -1
        if lock >= 0:
            self._disk.descriptors.close()
            self._disk.index.close()
            os.close(lock)

    @property
    def path(self) -> Path:
        """The store's directory."""
        return self._disk.paths.root

    # manifests

    def put_manifest(self, cid: Cid, data: bytes) -> None:
        """Keep a manifest, durably. Its files may come later.

        Raises:
            IntegrityError: ``data`` is not what ``cid`` names.
            ManifestError: It is not acceptable.
            StoreError: The disk failed; nothing was kept.
        """
        manifest = Manifest.decode(cid, data)
        path = self._disk.paths.manifest(cid)
        with self._roots_lock, contextlib.ExitStack() as undo:
            if self.get_manifest(cid) is None:
                with store_errors(self.path):
                    write_durably(self._disk.paths, path, data)
                undo.callback(path.unlink, missing_ok=True)
            self._disk.index.add_root(cid.to_bytes(), {entry.digest for entry in manifest.files})
            undo.pop_all()

    def get_manifest(self, cid: Cid) -> bytes | None:
        """The encoded manifest, verified, or ``None`` if it is not here."""
        with store_errors(self.path):
            try:
                data = self._disk.paths.manifest(cid).read_bytes()
            except FileNotFoundError:
                return None
        return data if cid.hash.digest(data) == cid.digest else None

    def roots(self) -> list[Cid]:
        """The manifests of which every file is here, sorted."""
        return sorted(Cid.from_bytes(raw) for raw in self._disk.index.complete_roots())

    def remove(self, root: Cid) -> None:
        """Forget a manifest, and the files that no other manifest lists. Unknown roots are ignored.

        A file that somebody has open goes when it is closed.
        """
        with self._roots_lock:
            with store_errors(self.path):
                self._disk.paths.manifest(root).unlink(missing_ok=True)
                fsync_directory(self._disk.paths.manifests)
            for image in self._disk.index.drop_root(root.to_bytes()):
                if not self._open_blobs.drop_when_closed(image.digest):
                    self._disk.drop(image)

    # files

    def open_blob(self, entry: FileEntry, hash: HashFunction) -> PartialBlob:  # noqa: A002
        """Begin, resume or look at one file; put the manifest that lists it first, see `open`.

        What was written before is trusted if it was in this boot of the machine, and hashed again otherwise.

        Raises:
            IntegrityError: The file is here already, but its bytes are not the chunks that ``entry`` lists.
            ManifestError: ``entry`` gives one digest to chunks of different sizes.
            StoreError: The disk failed.
        """
        return self._open_blobs.open(entry, hash)

    def has_blob(self, digest: bytes) -> bool:
        """Whether the whole file with this digest is here."""
        return self._disk.whole_image(digest) is not None

    def read_chunk(self, digest: bytes, length: int) -> bytes | None:
        """The bytes of a chunk, from whole files or verified parts of others; ``None`` if it is not here.

        Not hashed again: who receives it does that.

        Raises:
            StoreError: The disk failed.
        """
        return self._disk.read_chunk(digest, length)

    def export(
        self, entry: FileEntry, destination: Path, *, overwrite: bool, growing: GrowingCopy | None = None
    ) -> None:
        """Make a copy of a whole file at ``destination``: durable, and complete or not there.

        Parent directories are made. A later edit of the copy changes nothing in the store.

        Args:
            entry: The file.
            destination: Where the copy goes.
            overwrite: Replace what is there.
            growing: What has been copied for that destination already; the caller closes it.

        Raises:
            SourceError: ``destination`` exists and ``overwrite`` is false, or it cannot be written.
            StoreError: The file is not here.
        """
        image = self._disk.whole_image(entry.digest)
        if image is not None:
            with contextlib.suppress(EOFError), store_errors(self.path), self._disk.open(image) as descriptor:
                places = ((chunk.offset, chunk.length) for chunk in entry.chunks())
                draft = growing.complete(descriptor, places) if growing else None
                export_file(descriptor, entry.size, destination, overwrite=overwrite, draft=draft)
                return
        raise StoreError(self.path, f"{entry.path} is not complete in it; fetch it again")

    # space

    def missing_bytes(self, manifest: Manifest) -> int:
        """How many bytes of the manifest's files are not here yet; for `check_space`."""
        missing = 0
        for entry in {entry.digest: entry for entry in manifest.files}.values():
            image = self._disk.index.image_with_layout(layout_of(entry, manifest.hash))
            if image is not None and image.layout is not None:
                missing += max(entry.size - self._disk.index.chunk_bytes(image.id), 0)
            elif image is None and not self.has_blob(entry.digest):
                missing += entry.size
        return missing

    def check_space(self, needed: int) -> None:
        """Refuse at once what clearly does not fit; that it fits is not promised.

        Raises:
            StoreError: The filesystem has fewer than ``needed`` bytes free.
        """
        with store_errors(self.path):
            status = os.statvfs(self.path)
        free = status.f_bavail * status.f_frsize
        if needed > free:
            reason = f"it needs {needed / 1e6:,.0f} MB more and its disk has {free / 1e6:,.0f} MB free; make room"
            raise StoreError(self.path, reason)

    # publishing

    def stage(self) -> StagedBlob:
        """A new file, for `publish_path`."""
        return StagedBlob(self._disk)

    def holds_chunk(self, digest: bytes) -> bool:
        """Whether `read_chunk` would find it; a hint."""
        return self._disk.index.find_chunk(digest, self._disk.boot) is not None

    def admit(self, manifest: Manifest, files: Sequence[StagedFile]) -> Cid:
        """Keep staged files and the manifest that lists them; returns its content ID.

        Raises:
            StoreError: The disk failed; nothing was kept.
        """
        data = manifest.encode()
        cid = Cid.of(data, manifest.hash)
        with self._roots_lock, contextlib.ExitStack() as undo:
            if cid.to_bytes() not in self._disk.index.roots():
                undo.callback(self.remove, cid)
            self.put_manifest(cid, data)
            admit(self._disk, files, manifest.hash)
            undo.pop_all()
        return cid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock(paths: StorePaths) -> int:
    """Lock the store's directory; the kernel lets go of it when this process ends, however it does."""
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        reason = "another process is using it; stop that one, or use another directory"
        raise StoreError(paths.root, reason) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
