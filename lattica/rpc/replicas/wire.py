"""The messages of `lattica.v1.Replicas`, bounded before they are parsed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from lattica._proto import replicas_pb2
from lattica.errors import RemoteProtocolError, UsageError
from lattica.rpc.names import check_name
from lattica.rpc.replicas.limits import MAX_ANSWER_BYTES, MAX_OTHERS, MAX_REQUEST_BYTES

SERVICE: Final = replicas_pb2.DESCRIPTOR.services_by_name["Replicas"].full_name
"""The gRPC service, as in paths."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Question:
    """Who offers a name?

    Attributes:
        name: The service's.
        own: The asker's own record, if it offers the name too; else empty.
    """

    name: str
    own: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Who offers it, as far as the answering peer knows.

    Attributes:
        own: Its own record; empty if it does not offer the name.
        others: Records of others, and for how many seconds they still hold.
    """

    own: bytes
    others: tuple[tuple[bytes, float], ...]


def encode_question(name: str, own: bytes) -> bytes:
    """A serialized `DescribeRequest`."""
    return replicas_pb2.DescribeRequest(name=name, own=own).SerializeToString()


def parse_question(raw: bytes) -> Question:
    """Read a `DescribeRequest`; raises `RemoteProtocolError`."""
    message = _parse(replicas_pb2.DescribeRequest, raw, MAX_REQUEST_BYTES)
    try:
        check_name(message.name)
    except UsageError as error:
        raise RemoteProtocolError("a question about a name that no service can have") from error
    return Question(message.name, message.own)


def encode_answer(own: bytes, others: Iterable[tuple[bytes, float]]) -> bytes:
    """A serialized `DescribeResponse`."""
    known = (
        replicas_pb2.KnownRecord(envelope=envelope, remaining_ms=remaining_ms)
        for envelope, remaining in others
        if (remaining_ms := int(remaining * 1000)) > 0
    )
    return replicas_pb2.DescribeResponse(own=own, others=known).SerializeToString()


def parse_answer(raw: bytes) -> Answer:
    """Read a `DescribeResponse`; the records in it are not looked at. Raises `RemoteProtocolError`."""
    message = _parse(replicas_pb2.DescribeResponse, raw, MAX_ANSWER_BYTES)
    if len(message.others) > MAX_OTHERS:
        raise RemoteProtocolError(f"an answer with {len(message.others)} records, {MAX_OTHERS} allowed")
    return Answer(message.own, tuple((known.envelope, known.remaining_ms / 1000) for known in message.others))


def encode_goodbye(own: bytes) -> bytes:
    """A serialized `GoodbyeRequest`."""
    return replicas_pb2.GoodbyeRequest(own=own).SerializeToString()


def parse_goodbye(raw: bytes) -> bytes:
    """The record in a `GoodbyeRequest`; raises `RemoteProtocolError`."""
    return _parse(replicas_pb2.GoodbyeRequest, raw, MAX_REQUEST_BYTES).own


def _parse(kind: type[M], raw: bytes, limit: int) -> M:
    if len(raw) > limit:
        raise RemoteProtocolError(f"a {kind.DESCRIPTOR.name} of {len(raw)} bytes, {limit} allowed")
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise RemoteProtocolError(f"a malformed {kind.DESCRIPTOR.name}") from error
    return message
