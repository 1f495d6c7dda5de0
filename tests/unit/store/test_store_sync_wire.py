"""Frames between replicas: what is written is read, and of what is not an honest one only one error comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import store_pb2
from lattica.errors import RemoteProtocolError
from lattica.store.entry import MAX_SEQ, ChainId
from lattica.store.sync_wire import (
    MAX_FRAME,
    MAX_FRAME_ENTRIES,
    MAX_LOCATOR,
    MAX_PROOFS,
    MAX_WANTED,
    NOTHING,
    FrameReader,
    FrameWriter,
    Offer,
    SyncMessage,
)

ALICE = b"a" * 38
MARK = b"12345678"

authors = st.sampled_from([bytes([letter]) * 38 for letter in range(6)])
chains = st.builds(ChainId, authors, st.sampled_from((0, 1)))
offers = st.builds(Offer, st.integers(1, MAX_SEQ), st.binary(min_size=8, max_size=8))
messages = st.builds(
    SyncMessage,
    namespace=st.binary(max_size=32),
    heads=st.dictionaries(chains, offers | st.just(NOTHING), max_size=8),
    wanted=st.dictionaries(chains, st.lists(offers, max_size=MAX_LOCATOR), max_size=8),
    entries=st.lists(st.binary(max_size=50), max_size=5).map(tuple),
    answered=st.booleans(),
    proofs=st.lists(st.tuples(st.binary(max_size=50), st.binary(max_size=50)), max_size=3),
    full=st.booleans(),
)


@given(st.lists(messages, max_size=5))
def test_frames_of_a_stream_are_read_as_they_were_written(sent: list[SyncMessage]) -> None:
    writer, reader = FrameWriter(), FrameReader()
    assert [reader.read(writer.write(message)) for message in sent] == sent


def test_an_author_is_named_once_in_a_stream() -> None:
    writer = FrameWriter()
    message = SyncMessage(heads={ChainId(ALICE, 1): Offer(1, MARK)})
    assert ALICE in writer.write(message)
    assert ALICE not in writer.write(message)
    assert len(writer.write(SyncMessage())) == 0


@given(st.binary(max_size=200))
def test_of_garbage_comes_a_protocol_error_or_nothing_worse(raw: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        FrameReader().read(raw)


@given(messages, st.data())
def test_damaged_frames_are_read_or_refused(message: SyncMessage, data: st.DataObject) -> None:
    raw = bytearray(FrameWriter().write(message))
    for _ in range(data.draw(st.integers(1, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        FrameReader().read(bytes(raw))


def head(**more: object) -> store_pb2.SyncFrame:
    frame = store_pb2.SyncFrame()
    frame.heads.add(**{"author": 1, "peer": ALICE, "lane": 1, "seq": 1, "mark": MARK} | more)
    return frame


def wanted(**more: object) -> store_pb2.SyncFrame:
    frame = store_pb2.SyncFrame()
    frame.wanted.add(**{"author": 1, "peer": ALICE, "lane": 1, "seqs": [2, 1], "marks": MARK * 2} | more)
    return frame


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(head(peer=b"short"), id="no peer ID"),
        pytest.param(head(peer=b"x" * 65), id="a peer ID that is too long"),
        pytest.param(head(author=2), id="numbers are left out"),
        pytest.param(head(peer=b""), id="an author that was not named"),
        pytest.param(head(author=0, peer=b""), id="no author"),
        pytest.param(head(lane=2), id="no such lane"),
        pytest.param(head(seq=MAX_SEQ + 1), id="a number beyond all"),
        pytest.param(head(mark=b""), id="a head without a hash"),
        pytest.param(head(seq=0), id="a hash without a head"),
        pytest.param(wanted(marks=MARK), id="a locator without a hash"),
        pytest.param(wanted(seqs=range(MAX_LOCATOR + 1), marks=MARK * (MAX_LOCATOR + 1)), id="a long locator"),
    ],
)
def test_what_no_honest_peer_says_is_refused(frame: store_pb2.SyncFrame) -> None:
    with pytest.raises(RemoteProtocolError, match=r"malformed|not named"):
        FrameReader().read(frame.SerializeToString())


def too_many_wanted() -> SyncMessage:
    names = (number.to_bytes(38) for number in range(MAX_WANTED + 1))
    return SyncMessage(wanted={ChainId(name, 0): () for name in names})


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: SyncMessage(entries=[b""] * (MAX_FRAME_ENTRIES + 1)), id="entries"),
        pytest.param(lambda: SyncMessage(proofs=[(b"", b"")] * (MAX_PROOFS + 1)), id="proofs"),
        pytest.param(too_many_wanted, id="questions"),
        pytest.param(lambda: SyncMessage(entries=[bytes(MAX_FRAME)]), id="bytes"),
    ],
)
def test_a_frame_holds_no_more_than_is_allowed(make: Callable[[], SyncMessage]) -> None:
    with pytest.raises(RemoteProtocolError, match="allowed"):
        FrameReader().read(FrameWriter().write(make()))


def test_authors_of_a_stream_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.sync_wire.MAX_HEADS", 10)
    writer, reader = FrameWriter(), FrameReader()
    for number in range(10):
        reader.read(writer.write(SyncMessage(heads={ChainId(number.to_bytes(38), 0): Offer(1, MARK)})))
    with pytest.raises(RemoteProtocolError, match="malformed author"):
        reader.read(writer.write(SyncMessage(heads={ChainId(ALICE, 0): Offer(1, MARK)})))
