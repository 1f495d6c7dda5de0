"""What two replicas tell each other, in bytes: `SyncFrame` of proto/lattica/v1/store.proto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from lattica._proto import store_pb2
from lattica.errors import RemoteProtocolError
from lattica.store.entry import MAX_SEQ, ChainId, Lane

MAX_FRAME = 3 << 20
"""Bytes of a frame: one entry of the largest size and the rest of a full answer fit."""
MAX_HEADS = 1 << 16
"""Chains of one frame, and authors of one stream."""
MAX_WANTED = 1 << 10
"""Chains that one frame asks for: that many locators are some 200 KB."""
MAX_LOCATOR = 64
"""Entries by which a common one is looked for; with gaps that double, more than any chain needs."""
MAX_FRAME_ENTRIES = 4096
"""Entries of one frame."""
MAX_PROOFS = 64
"""Proofs of one frame."""
MAX_PRESENCES = 64
"""Records of who is present in one frame."""
SHORT_MARK = 8
"""Bytes of a hash in what is told of heads: that two of one chain share them by chance takes 2^32 forks."""

_MIN_PEER, _MAX_PEER = 34, 64


class Offer(NamedTuple):
    """An entry, as heads and locators name it.

    Attributes:
        seq: Its number; 0: none.
        mark: The first 8 bytes of its hash.
    """

    seq: int
    mark: bytes


NOTHING = Offer(0, b"")
Locator: TypeAlias = Sequence[Offer]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncMessage:
    """One frame.

    Attributes:
        namespace: In the caller's first one.
        heads: News of the sender's.
        wanted: Chains that the sender lacks a part of, and what it has of them.
        entries: Part of an answer.
        answered: Whether the answer ends.
        proofs: Of frauds.
        base: Number of the checkpoint whose state the sender keeps in place of entries; 0: no news of that.
        state_wanted: Number of the checkpoint whose state is asked for; 0: none is.
        state: Part of one.
        presences: Records of who is present.
        full: The sender leaves strangers' entries out.
    """

    namespace: bytes = b""
    heads: Mapping[ChainId, Offer] = field(default_factory=dict)
    wanted: Mapping[ChainId, Locator] = field(default_factory=dict)
    entries: Sequence[bytes] = ()
    answered: bool = False
    proofs: Sequence[tuple[bytes, bytes]] = ()
    base: int = 0
    state_wanted: int = 0
    state: bytes = b""
    presences: Sequence[bytes] = ()
    full: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing but that the sender is there."""
        return not any(getattr(self, name) for name in self.__slots__)


class FrameWriter:
    """Writes one direction of a stream: an author's ID is sent once, then its number."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def write(self, message: SyncMessage) -> bytes:
        """The frame."""
        frame = store_pb2.SyncFrame(
            namespace=message.namespace,
            entries=message.entries,
            answered=message.answered,
            base=message.base,
            state_wanted=message.state_wanted,
            state=message.state,
            presences=message.presences,
            full=message.full,
            proofs=[store_pb2.FraudProof(one=one, other=other) for one, other in message.proofs],
        )
        for chain, head in message.heads.items():
            number, peer = self._author(chain.author)
            frame.heads.add(author=number, peer=peer, lane=chain.lane, seq=head.seq, mark=head.mark)
        for chain, locator in message.wanted.items():
            number, peer = self._author(chain.author)
            marks = b"".join(offer.mark for offer in locator)
            frame.wanted.add(
                author=number, peer=peer, lane=chain.lane, seqs=[offer.seq for offer in locator], marks=marks
            )
        return frame.SerializeToString()

    def _author(self, peer: bytes) -> tuple[int, bytes]:
        number = self._numbers.get(peer)
        if number is not None:
            return number, b""
        self._numbers[peer] = len(self._numbers) + 1
        return len(self._numbers), peer


class FrameReader:
    """Reads one direction of a stream; every method raises `RemoteProtocolError` for what no honest peer sends."""

    def __init__(self) -> None:
        self._authors: list[bytes] = []

    def read(self, raw: bytes) -> SyncMessage:
        """What the frame says."""
        if len(raw) > MAX_FRAME:
            raise RemoteProtocolError(f"a frame of {len(raw)} bytes, {MAX_FRAME} allowed")
        frame = store_pb2.SyncFrame()
        try:
            frame.ParseFromString(raw)
        except DecodeError as error:
            raise RemoteProtocolError("a malformed frame") from error
        for what, count, most in (
            ("heads", len(frame.heads), MAX_HEADS),
            ("wanted chains", len(frame.wanted), MAX_WANTED),
            ("entries", len(frame.entries), MAX_FRAME_ENTRIES),
            ("proofs", len(frame.proofs), MAX_PROOFS),
            ("presences", len(frame.presences), MAX_PRESENCES),
        ):
            if count > most:
                raise RemoteProtocolError(f"{count} {what} in a frame, {most} allowed")
        return SyncMessage(
            namespace=frame.namespace,
            heads=dict(self._head(head) for head in frame.heads),
            wanted=dict(self._wanted(wanted) for wanted in frame.wanted),
            entries=tuple(frame.entries),
            answered=frame.answered,
            base=frame.base,
            state_wanted=frame.state_wanted,
            state=frame.state,
            presences=tuple(frame.presences),
            full=frame.full,
            proofs=[(proof.one, proof.other) for proof in frame.proofs],
        )

    def _head(self, head: store_pb2.ChainHead) -> tuple[ChainId, Offer]:
        chain = self._chain(head.author, head.peer, head.lane)
        if head.seq > MAX_SEQ or len(head.mark) != (SHORT_MARK if head.seq else 0):
            raise RemoteProtocolError("a malformed head")
        return chain, Offer(head.seq, head.mark)

    def _wanted(self, wanted: store_pb2.ChainWanted) -> tuple[ChainId, Locator]:
        chain = self._chain(wanted.author, wanted.peer, wanted.lane)
        count = len(wanted.seqs)
        if count > MAX_LOCATOR or len(wanted.marks) != count * SHORT_MARK:
            raise RemoteProtocolError("a malformed question")
        marks = [wanted.marks[at : at + SHORT_MARK] for at in range(0, len(wanted.marks), SHORT_MARK)]
        return chain, [Offer(seq, mark) for seq, mark in zip(wanted.seqs, marks, strict=True)]

    def _chain(self, number: int, peer: bytes, lane: int) -> ChainId:
        if peer:
            if number != len(self._authors) + 1 or number > MAX_HEADS or not _MIN_PEER <= len(peer) <= _MAX_PEER:
                raise RemoteProtocolError("a malformed author")
            self._authors.append(peer)
        if not 1 <= number <= len(self._authors) or lane not in (Lane.CONTROL, Lane.DATA):
            raise RemoteProtocolError("a chain that was not named")
        return ChainId(self._authors[number - 1], lane)
