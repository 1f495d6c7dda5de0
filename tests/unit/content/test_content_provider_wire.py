"""What goes over a chunk stream: encoding, and what is refused before it is hashed or even parsed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import content_pb2
from lattica.content.cid import Cid, HashFunction
from lattica.content.manifest_limits import MAX_CHUNK, MAX_MANIFEST
from lattica.content.provider_client import ManifestParts
from lattica.content.provider_wire import (
    MAX_IN_FLIGHT,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    RequestBook,
    Wanted,
    encode_response,
    parse_request,
)
from lattica.errors import RemoteProtocolError

ROOT = Cid.of(b"root", HashFunction.BLAKE3)
OK, NOT_FOUND = content_pb2.CHUNK_STATUS_OK, content_pb2.CHUNK_STATUS_NOT_FOUND

tags = st.integers(0, 2**32 - 1)
wanted_chunks = st.builds(Wanted, tags, st.binary(min_size=32, max_size=32), st.integers(1, MAX_CHUNK))


def response(*answers: tuple[int, int, bytes]) -> bytes:
    chunks = [content_pb2.ChunkAnswer(tag=tag, status=status, data=data) for tag, status, data in answers]  # type: ignore[arg-type]
    return content_pb2.ChunkResponse(answers=chunks).SerializeToString()


def book(*lengths: int) -> RequestBook:
    """A book with one chunk of each length asked for, tagged 0, 1, 2, …"""
    made = RequestBook(ROOT)
    made.encode_request([Wanted(tag, bytes(32), length) for tag, length in enumerate(lengths)])
    return made


@given(st.lists(st.tuples(tags, st.none() | st.binary(min_size=1, max_size=300))))
def test_responses_put_together_by_hand_are_what_protobuf_makes(answers: list[tuple[int, bytes | None]]) -> None:
    by_protobuf = response(*((tag, NOT_FOUND, b"") if data is None else (tag, OK, data) for tag, data in answers))
    assert encode_response(answers) == by_protobuf


def test_the_largest_response_fits_its_limit() -> None:
    small = MAX_CHUNK // MAX_IN_FLIGHT
    answers = [(2**32 - 1 - number, bytes(small)) for number in range(MAX_IN_FLIGHT)]
    assert MAX_CHUNK < len(encode_response(answers)) <= MAX_RESPONSE_BYTES


def test_the_largest_request_fits_its_limit() -> None:
    wanted = [Wanted(2**32 - 1 - number, bytes(32), MAX_CHUNK) for number in range(MAX_IN_FLIGHT)]
    assert len(RequestBook(ROOT).encode_request(wanted)) <= MAX_REQUEST_BYTES


@given(st.lists(wanted_chunks, min_size=1, max_size=50))
def test_requests_arrive_as_they_were_meant(wanted: list[Wanted]) -> None:
    made = RequestBook(ROOT)
    assert parse_request(made.encode_request(wanted), is_first=True) == wanted
    assert parse_request(made.encode_request(wanted), is_first=False) == wanted


@given(st.binary(max_size=200), st.booleans())
def test_garbage_for_a_request_is_refused(raw: bytes, is_first: bool) -> None:
    try:
        wanted = parse_request(raw, is_first=is_first)
    except RemoteProtocolError:
        return
    assert wanted
    assert all(len(chunk.digest) == 32 and 1 <= chunk.length <= MAX_CHUNK for chunk in wanted)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(content_pb2.ChunkRequest(root=ROOT.to_bytes()), "no chunk", id="nothing wanted"),
        pytest.param(
            content_pb2.ChunkRequest(wanted=[content_pb2.WantedChunk(digest=bytes(32), length=1)]), "root", id="no root"
        ),
        pytest.param(
            content_pb2.ChunkRequest(root=b"\x01" * 36, wanted=[content_pb2.WantedChunk(digest=bytes(32), length=1)]),
            "root",
            id="bad root",
        ),
        pytest.param(
            content_pb2.ChunkRequest(
                root=ROOT.to_bytes(), wanted=[content_pb2.WantedChunk(digest=bytes(31), length=1)]
            ),
            "31 bytes",
            id="short digest",
        ),
        pytest.param(
            content_pb2.ChunkRequest(
                root=ROOT.to_bytes(), wanted=[content_pb2.WantedChunk(digest=bytes(32), length=0)]
            ),
            "0 bytes",
            id="no length",
        ),
        pytest.param(
            content_pb2.ChunkRequest(
                root=ROOT.to_bytes(), wanted=[content_pb2.WantedChunk(digest=bytes(32), length=MAX_CHUNK + 1)]
            ),
            str(MAX_CHUNK + 1),
            id="too long",
        ),
        pytest.param(
            content_pb2.ChunkRequest(root=bytes(MAX_REQUEST_BYTES)), "more than", id="larger than any request"
        ),
    ],
)
def test_requests_for_what_cannot_be_are_refused(request_: content_pb2.ChunkRequest, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        parse_request(request_.SerializeToString(), is_first=True)


def test_answers_that_fit_are_taken_once() -> None:
    made = book(3, 4)
    answers = made.take_response(response((1, NOT_FOUND, b""), (0, OK, b"abc")))
    assert (answers.found, answers.missing) == ([(0, b"abc")], [1])
    assert not made.unanswered
    with pytest.raises(RemoteProtocolError, match="not asked"):
        made.take_response(response((0, OK, b"abc")))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(response(), "without an answer", id="empty"),
        pytest.param(response((7, OK, b"abc")), "not asked", id="unknown tag"),
        pytest.param(response((0, OK, b"abc"), (0, OK, b"abc")), "not asked", id="twice"),
        pytest.param(response((0, OK, b"ab")), "2 bytes", id="too short"),
        pytest.param(response((0, OK, b"abcd")), "4 bytes", id="too long"),
        pytest.param(response((0, OK, b"")), "0 bytes", id="no bytes"),
        pytest.param(response((0, NOT_FOUND, b"abc")), "status 2", id="bytes of what is not there"),
        pytest.param(response((0, 0, b"abc")), "status 0", id="no status"),
        pytest.param(b"\xff\xff", "malformed", id="no protobuf"),
        pytest.param(bytes(MAX_RESPONSE_BYTES + 1), "more than", id="larger than any response"),
    ],
)
def test_answers_that_do_not_fit_are_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        book(3).take_response(raw)


class TestManifestParts:
    @staticmethod
    def part(total: int, data: bytes) -> bytes:
        return content_pb2.ManifestPart(total=total, data=data).SerializeToString()

    def test_parts_make_the_whole(self) -> None:
        parts = ManifestParts()
        parts.add(self.part(5, b"abc"))
        assert parts.missing == 2
        parts.add(self.part(5, b"de"))
        assert (parts.missing, parts.join()) == (0, b"abcde")

    @pytest.mark.parametrize(
        ("total", "data", "reason"),
        [
            pytest.param(MAX_MANIFEST + 1, b"abc", "more than", id="claims too much"),
            pytest.param(2**63, b"abc", "more than", id="claims exabytes"),
            pytest.param(0, b"", "0 bytes", id="nothing"),
            pytest.param(3, b"", "0 bytes", id="an empty part"),
            pytest.param(2, b"abc", "3 bytes where 2", id="more than it said"),
            pytest.param(MAX_MANIFEST, bytes(MAX_CHUNK + 100), "more than", id="too large a part"),
        ],
    )
    def test_what_cannot_be_is_refused_at_once(self, total: int, data: bytes, reason: str) -> None:
        with pytest.raises(RemoteProtocolError, match=reason):
            ManifestParts().add(self.part(total, data))

    def test_parts_that_never_end_are_refused(self) -> None:
        parts = ManifestParts()
        parts.add(self.part(4, b"ab"))
        parts.add(self.part(4, b"cd"))
        with pytest.raises(RemoteProtocolError):
            parts.add(self.part(4, b"ef"))
