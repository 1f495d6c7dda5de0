"""The chunks that a fetch still needs, and how one is verified and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lattica.content.cid import HashFunction
from lattica.content.manifest import Chunk
from lattica.content.provider_wire import Wanted
from lattica.content.store import PartialBlob


class Pieces:
    """The distinct chunks that some blobs miss, numbered in the order of the files. Making it blocks on the disk.

    Args:
        blobs: The files.
        hash_function: Of their chunks.
        written: Called for each place of a piece, after it was written there, in the thread that wrote it.

    Attributes:
        lengths: Bytes of each piece.
    """

    def __init__(
        self,
        blobs: Iterable[PartialBlob],
        hash_function: HashFunction,
        written: Callable[[PartialBlob, Chunk], None] = lambda _blob, _chunk: None,
    ) -> None:
        self._written = written
        self.lengths: list[int] = []
        self._hash = hash_function
        self._places: list[tuple[PartialBlob, Chunk]] = []
        self._more_places: dict[int, list[tuple[PartialBlob, Chunk]]] = {}  # of those that several files have
        numbers: dict[bytes, int] = {}
        for blob in blobs:
            for chunk in blob.missing():
                number = numbers.setdefault(chunk.digest, len(numbers))
                if number == len(self._places):
                    self._places.append((blob, chunk))
                    self.lengths.append(chunk.length)
                else:
                    self._more_places.setdefault(number, []).append((blob, chunk))

    def __len__(self) -> int:
        return len(self._places)

    def wanted(self, number: int) -> Wanted:
        """What a provider is asked for; its tag is the piece's number."""
        _, chunk = self._places[number]
        return Wanted(number, chunk.digest, chunk.length)

    def write(self, found: Sequence[tuple[int, bytes]]) -> list[int]:
        """Verify pieces and write them, up to the first that is wrong; returns those written. Blocks.

        Raises:
            StoreError: The disk failed.
        """
        written: list[int] = []
        for number, data in found:
            blob, chunk = self._places[number]
            if self._hash.digest(data) != chunk.digest:
                break
            for each, place in ((blob, chunk), *self._more_places.get(number, ())):
                each.write(place, data)
                self._written(each, place)
            written.append(number)
        return written
