"""What a root CID points to: files, their chunks, and the tensors in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from google.protobuf.message import DecodeError

from lattica._proto import content_pb2
from lattica.content.cid import DIGEST_SIZE, Cid, HashFunction
from lattica.content.manifest_limits import MAX_MANIFEST
from lattica.content.manifest_rules import check_manifest
from lattica.content.manifest_wire import check_counts
from lattica.errors import IntegrityError, ManifestError

VERSION: Final = 1

_HASHES: Final = {
    content_pb2.HASH_FUNCTION_BLAKE3: HashFunction.BLAKE3,
    content_pb2.HASH_FUNCTION_SHA2_256: HashFunction.SHA2_256,
}
_HASH_NUMBERS: Final = {function: number for number, function in _HASHES.items()}


@dataclass(frozen=True, slots=True)
class Chunk:
    """One content-addressed block of a file.

    Attributes:
        digest: 32 bytes, made by the manifest's hash function.
        offset: Where it begins in the file.
        length: 1 to `MAX_CHUNK` bytes.
    """

    digest: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """Successive chunks of a file, all of one size but the last.

    Attributes:
        chunk_size: 1 to `MAX_CHUNK` bytes.
        length: Bytes in the run; 0 for a tensor without elements.
        digests: The chunks' digests, 32 bytes each, one after the other.
    """

    chunk_size: int
    length: int
    digests: bytes

    @property
    def chunk_count(self) -> int:
        """How many chunks the length makes."""
        return -(-self.length // self.chunk_size)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a safetensors file; its bytes are exactly those of one run.

    Attributes:
        name: Its name in the file, unique there.
        dtype: As safetensors spells it, a key of `lattica.content.safetensors.DTYPE_BITS`.
        shape: Empty for a scalar.
        run: Index into `FileEntry.runs`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    run: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a manifest.

    Attributes:
        path: Relative, with ``/``; safe to join to a destination directory.
        size: Bytes; 0 is an empty file, which has no runs.
        digest: Of the whole file, 32 bytes.
        runs: The file's bytes in order, without gaps.
        tensors: Empty for a file that is not safetensors.
    """

    path: str
    size: int
    digest: bytes
    runs: tuple[ChunkRun, ...]
    tensors: tuple[TensorEntry, ...] = ()

    def chunks(self) -> list[Chunk]:
        """Every chunk in file order; equal digests at several offsets are listed each time."""
        chunks: list[Chunk] = []
        offset = 0
        for run in self.runs:
            end = offset + run.length
            for at in range(0, len(run.digests), DIGEST_SIZE):
                length = min(run.chunk_size, end - offset)
                chunks.append(Chunk(run.digests[at : at + DIGEST_SIZE], offset, length))
                offset += length
        return chunks


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a root CID points to.

    Attributes:
        name: What the publisher calls it; no meaning to the protocol.
        hash: Makes every digest in it, and its own.
        files: At least one, sorted by path.
    """

    name: str
    hash: HashFunction
    files: tuple[FileEntry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def encode(self) -> bytes:
        """The protobuf form; the same manifest gives the same bytes."""
        message = content_pb2.Manifest(version=VERSION, name=self.name, hash=_HASH_NUMBERS[self.hash])
        for entry in self.files:
            file = message.files.add(path=entry.path, size=entry.size, digest=entry.digest)
            for run in entry.runs:
                file.runs.add(chunk_size=run.chunk_size, length=run.length, digests=run.digests)
            for tensor in entry.tensors:
                file.tensors.add(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, run=tensor.run)
        return message.SerializeToString(deterministic=True)

    def cid(self) -> Cid:
        """The root CID: of the encoded form."""
        return Cid.of(self.encode(), self.hash)

    @classmethod
    def decode(cls, cid: Cid, data: bytes) -> Self:
        """Read and check what a peer sent for ``cid``.

        Raises:
            IntegrityError: These bytes are not those that ``cid`` names.
            ManifestError: They are, but no honest publisher makes such a manifest.
        """
        if len(data) > MAX_MANIFEST:
            raise ManifestError(cid, f"it has {len(data)} bytes; {MAX_MANIFEST} are the most")
        if cid.hash.digest(data) != cid.digest:
            raise IntegrityError(cid, ())
        try:
            check_counts(data)
            message = content_pb2.Manifest.FromString(data)
            if message.version != VERSION:
                raise ValueError(f"it has version {message.version} and we read {VERSION}; a newer Lattica may read it")
            if _HASHES.get(message.hash) is not cid.hash:
                raise ValueError("its digests are not made by the hash function of its own content ID")
            manifest = cls(message.name, cid.hash, tuple(_file(file) for file in message.files))
            check_manifest(manifest)
        except DecodeError as error:
            raise ManifestError(cid, "it is not a protobuf message") from error
        except ValueError as error:
            raise ManifestError(cid, str(error)) from error
        return manifest


def _file(message: content_pb2.File) -> FileEntry:
    return FileEntry(
        message.path,
        message.size,
        message.digest,
        tuple(ChunkRun(run.chunk_size, run.length, run.digests) for run in message.runs),
        tuple(TensorEntry(each.name, each.dtype, tuple(each.shape), each.run) for each in message.tensors),
    )
