"""Files, manifests and small disks for tests of the block store and of publishing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lattica.content import BlockStore, Chunk, ChunkRun, FileEntry, HashFunction, Manifest, PartialBlob

CHUNK = 4096
BLAKE3 = HashFunction.BLAKE3


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def entry_for(
    data: bytes, path: str = "model.bin", *, chunk_size: int = CHUNK, function: HashFunction = BLAKE3
) -> FileEntry:
    """The entry of a file that is one run."""
    parts = [data[at : at + chunk_size] for at in range(0, len(data), chunk_size)]
    runs = (ChunkRun(chunk_size, len(data), b"".join(map(function.digest, parts))),) if parts else ()
    return FileEntry(path, len(data), function.digest(data), runs)


def manifest_for(*files: FileEntry, name: str = "model", function: HashFunction = BLAKE3) -> Manifest:
    return Manifest(name, function, tuple(sorted(files, key=lambda entry: entry.path)))


def put(store: BlockStore, *files: FileEntry, name: str = "model") -> Manifest:
    """Put a manifest of these files into a store, without their bytes."""
    manifest = manifest_for(*files, name=name)
    store.put_manifest(manifest.cid(), manifest.encode())
    return manifest


def write_chunks(blob: PartialBlob, data: bytes, chunks: Iterable[Chunk]) -> None:
    for chunk in chunks:
        blob.write(chunk, data[chunk.offset : chunk.offset + chunk.length])


def fill(store: BlockStore, entry: FileEntry, data: bytes) -> Path:
    """Put a whole file into a store."""
    with store.open_blob(entry, BLAKE3) as blob:
        write_chunks(blob, data, blob.missing())
        return blob.seal()


def is_readable(store: BlockStore, entry: FileEntry, data: bytes) -> bool:
    """Whether the store gives every chunk of a file, and rightly."""
    return all(
        store.read_chunk(chunk.digest, chunk.length) == data[chunk.offset : chunk.offset + chunk.length]
        for chunk in entry.chunks()
    )


def files_below(path: Path) -> set[str]:
    """The files of a store that hold content."""
    found = {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}
    return {name for name in found if name != "lock" and not name.startswith("index.sqlite")}


def safetensors_bytes(sizes: Iterable[int] = (10, 0, 3 << 20, 1500), seed: int = 0) -> bytes:
    """A safetensors file with a tensor of each of these sizes in bytes."""
    arrays = {
        f"layer.{number}": np.frombuffer(random_bytes(size, seed + number), np.uint8)
        for number, size in enumerate(sizes)
    }
    return safetensors.numpy.save(arrays, {"format": "np"})


class Disk:
    """A tmpfs of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set_read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)

    def fill_up(self) -> Path:
        """Take all the space that is left, and say with what."""
        ballast = self.path / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        return ballast


def mount_tmpfs(path: Path, size: str) -> Disk:
    """Mount a small disk; skips the test where that is not possible."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a tmpfs")
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.decode().strip()}")
    return Disk(path)


def unmount(disk: Disk) -> None:
    subprocess.run(["umount", "--lazy", disk.path], check=True)
