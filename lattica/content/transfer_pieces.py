"""The chunks that a fetch still needs, and how one is verified and written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lattica.content.cid import HashFunction
from lattica.content.manifest import Chunk
from lattica.content.store import PartialBlob


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk to fetch, whichever files it belongs to.

    Attributes:
        digest: 32 bytes.
        length: Bytes.
        places: Where it goes.
    """

    digest: bytes
    length: int
    places: list[tuple[PartialBlob, Chunk]]


class Pieces:
    """The distinct chunks that some blobs miss, in the order of the files. Reading them blocks on the disk.

    Attributes:
        lengths: Bytes of each piece.
    """

    def __init__(self, blobs: Iterable[PartialBlob], hash_function: HashFunction) -> None:
        self._hash = hash_function
        by_digest: dict[bytes, Piece] = {}
        for blob in blobs:
            for chunk in blob.missing():
                piece = by_digest.setdefault(chunk.digest, Piece(chunk.digest, chunk.length, []))
                piece.places.append((blob, chunk))
        self._pieces = list(by_digest.values())
        self.lengths = [piece.length for piece in self._pieces]

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> Piece:
        return self._pieces[index]

    def write(self, found: Sequence[tuple[int, bytes]]) -> list[int]:
        """Verify pieces and write them, up to the first that is wrong; returns those written. Blocks.

        Raises:
            StoreError: The disk failed.
        """
        written: list[int] = []
        for index, data in found:
            piece = self._pieces[index]
            if self._hash.digest(data) != piece.digest:
                break
            for blob, chunk in piece.places:
                blob.write(chunk, data)
            written.append(index)
        return written
