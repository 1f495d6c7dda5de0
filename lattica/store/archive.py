"""The file format of backups: what `export` writes and `import` reads, as a stream.

`MAGIC`, then frames of a kind (1 byte), a length (4 bytes, big-endian) and a body; the last frame holds the BLAKE3 of
all bytes before it, its own head included. A genesis comes before the entries and proofs of its namespace. A proof's
body is the length of its first entry (4 bytes, big-endian) and both entries; a state's is its checkpoint's number (8
bytes, big-endian) and the state. The format promises nothing about what
is in the parts: whoever reads checks signatures as if they came from a stranger.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import blake3

from lattica.errors import ArchiveError

MAGIC: Final = b"lattica-archive\x00\x01"
"""The last byte is the version of the format."""

NAMESPACE_SIZE: Final = 32
"""Bytes of a namespace's ID."""

MAX_GENESIS_SIZE: Final = 1 << 20
"""Bytes of a signed genesis; honest ones have some hundred."""

MAX_ENTRY_SIZE: Final = 4 << 20
"""Bytes of a signed entry: four times the largest update (`UpdateLimits.size`)."""

MAX_STATE_SIZE: Final = 512 << 20
"""Bytes of a checkpoint's state, as in `lattica.store.control`."""

_HEAD: Final = struct.Struct(">BI")
_LENGTH: Final = struct.Struct(">I")
_SEQ: Final = struct.Struct(">Q")
_END, _GENESIS, _ENTRY, _PROOF, _STATE = range(5)
_LIMITS: Final = {
    _END: blake3.blake3.digest_size,
    _GENESIS: NAMESPACE_SIZE + MAX_GENESIS_SIZE,
    _ENTRY: MAX_ENTRY_SIZE,
    _PROOF: _LENGTH.size + 2 * MAX_ENTRY_SIZE,
    _STATE: _SEQ.size + MAX_STATE_SIZE,
}
_DAMAGED: Final = "take another copy of it, or export again"


@dataclass(frozen=True, slots=True)
class Genesis:
    """A namespace begins; what follows, up to the next genesis, belongs to it.

    Attributes:
        namespace: Its ID, 32 bytes.
        raw: The signed genesis.
    """

    namespace: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class EntryPart:
    """A signed entry of the log."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class ProofPart:
    """Two signed entries that prove that their author used one sequence number twice."""

    one: bytes
    other: bytes


@dataclass(frozen=True, slots=True)
class StatePart:
    """What a checkpoint of the owner's puts in the place of entries.

    Attributes:
        seq: The checkpoint's number.
        raw: The state.
    """

    seq: int
    raw: bytes


ArchivePart = Genesis | EntryPart | ProofPart | StatePart


def write_archive(file: BinaryIO, parts: Iterable[ArchivePart]) -> None:
    """Write ``parts`` as an archive; ``file`` is neither flushed nor closed.

    Raises:
        ArchiveError: A part is larger than a reader accepts, or comes before any genesis.
        OSError: The file cannot be written.
    """
    hasher = blake3.blake3()
    begun = False

    def write(data: bytes) -> None:
        hasher.update(data)
        file.write(data)

    write(MAGIC)
    for part in parts:
        begun = begun or isinstance(part, Genesis)
        if not begun:
            raise ArchiveError("an entry or proof came before any genesis; write the genesis of its namespace first")
        kind, body = _encode(part)
        write(_HEAD.pack(kind, len(body)))
        write(body)
    write(_HEAD.pack(_END, blake3.blake3.digest_size))
    file.write(hasher.digest())


def read_archive(file: BinaryIO) -> Iterator[ArchivePart]:
    """The parts of an archive, one at a time, in the order in which they were written.

    That the archive is whole is known only when the iterator has ended: until then keep what came apart, or verify
    each part by itself.

    Raises:
        ArchiveError: It is no archive, from another version, cut off, or damaged.
        OSError: The file cannot be read.
    """
    reader = _Reader(file)
    _check_magic(reader.read(len(MAGIC), "its head"))
    begun = False
    while True:
        kind, length = _HEAD.unpack(reader.read(_HEAD.size, "the head of a part"))
        if length > _LIMITS.get(kind, -1):
            raise ArchiveError(f"it is damaged (a part of kind {kind} with {length} bytes); {_DAMAGED}")
        if kind == _END:
            reader.check_end(length)
            return
        part = _decode(kind, reader.read(length, "a part"))
        begun = begun or isinstance(part, Genesis)
        if not begun:
            raise ArchiveError(f"it is damaged (an entry before any genesis); {_DAMAGED}")
        yield part


class _Reader:
    """Exact numbers of bytes from a file, hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = blake3.blake3()

    def read(self, size: int, what: str) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise ArchiveError(f"it is cut off in {what}; {_DAMAGED}")
        self._hasher.update(data)
        return data

    def check_end(self, size: int) -> None:
        expected = self._hasher.digest()
        if self.read(size, "its checksum") != expected:
            raise ArchiveError(f"it is damaged (its checksum does not match); {_DAMAGED}")
        if self._read(1):
            raise ArchiveError(f"something follows its end; {_DAMAGED}")

    def _read(self, size: int) -> bytes:
        """Less than ``size`` only at the end of the file; pipes give less at a time."""
        data = self._file.read(size)
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        return data


def _check_magic(found: bytes) -> None:
    if found[:-1] != MAGIC[:-1]:
        raise ArchiveError("it is no archive of documents; give a file that `export` has written")
    if found != MAGIC:
        made = f"it was made by another version of Lattica (format {found[-1]}, this one reads {MAGIC[-1]})"
        raise ArchiveError(f"{made}; import it with that version")


def _encode(part: ArchivePart) -> tuple[int, bytes]:
    match part:
        case Genesis(namespace, raw):
            if len(namespace) != NAMESPACE_SIZE:
                raise ArchiveError(f"a namespace's ID has {NAMESPACE_SIZE} bytes, not {len(namespace)}")
            _check_size("a genesis", raw, MAX_GENESIS_SIZE)
            return _GENESIS, namespace + raw
        case EntryPart(raw):
            _check_size("an entry", raw, MAX_ENTRY_SIZE)
            return _ENTRY, raw
        case ProofPart(one, other):
            _check_size("an entry of a proof", one, MAX_ENTRY_SIZE)
            _check_size("an entry of a proof", other, MAX_ENTRY_SIZE)
            return _PROOF, _LENGTH.pack(len(one)) + one + other
        case StatePart(seq, raw):
            _check_size("a checkpoint's state", raw, MAX_STATE_SIZE)
            return _STATE, _SEQ.pack(seq) + raw


def _check_size(what: str, raw: bytes, limit: int) -> None:
    if len(raw) > limit:
        raise ArchiveError(f"{what} with {len(raw)} bytes does not fit; {limit} are the most")


def _decode(kind: int, body: bytes) -> ArchivePart:
    if kind == _ENTRY:
        return EntryPart(body)
    if kind == _GENESIS and len(body) >= NAMESPACE_SIZE:
        return Genesis(body[:NAMESPACE_SIZE], body[NAMESPACE_SIZE:])
    if kind == _STATE and len(body) >= _SEQ.size:
        (seq,) = _SEQ.unpack_from(body)
        return StatePart(seq, body[_SEQ.size :])
    if kind == _PROOF and len(body) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(body)
        one, other = body[_LENGTH.size :][:length], body[_LENGTH.size + length :]
        if len(one) == length <= MAX_ENTRY_SIZE and len(other) <= MAX_ENTRY_SIZE:
            return ProofPart(one, other)
    raise ArchiveError(f"it is damaged (a part is shorter than its kind needs); {_DAMAGED}")
