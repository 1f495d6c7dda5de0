"""The messages of a call that has a gRPC call of its own: streams, and whatever is too large for a batch.

A value (msgpack body and raw buffers) is a run of bytes. One of up to 2 MiB is a gRPC message; a larger one is cut into
messages of 1 MiB, each with a kind before it, for gRPC copies and keeps messages whole. The receiver allocates each
buffer of such a value once and fills it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec

from lattica.errors import RemoteProtocolError
from lattica.rpc.batch_wire import MAX_METHOD, CallId, Failure
from lattica.rpc.codec import Encoded

FRAGMENT = 1 << 20
"""Bytes in one message of a value that is cut."""
MAX_BUFFERS = 4096
"""Buffers of one value."""
MAX_BODY = 16 << 20
"""Bytes of the msgpack body of one value."""
MAX_VALUE = 16 << 30
"""Bytes of one value."""
MAX_HEADER = 64 * 1024
"""Bytes of a call's header."""

MAX_WHOLE = 2 << 20
"""Bytes of a value that is one message."""

HEADER, VALUE, MORE, FAILURE, END = 1, 2, 3, 4, 6
END_MESSAGE = bytes((END,))
"""What ends a caller's stream of items: a call that was cancelled or lost looks at the server as if no more came."""

FETCH = 4
"""Flag of a call that asks for the result of an earlier one, whose number it has."""

_VALUE_HEAD = struct.Struct("<BIH")
_SIZE = struct.Struct("<Q")
_HEADER_HEAD = struct.Struct("<BI")


class CallHeader(msgspec.Struct, array_like=True, frozen=True):
    """What a call begins with.

    Attributes:
        method: ``service/method``.
        instance: The instance of the caller.
        id: Its number for the call.
        flags: As of batched calls, and `FETCH`.
        context: Tracing headers.
        memory: Name of the server's memory of the caller's calls in which the number is looked up; empty for a call
            that may run twice, or that streams.
    """

    method: Annotated[str, msgspec.Meta(max_length=MAX_METHOD)]
    instance: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    id: CallId
    flags: int
    context: dict[str, str] | None = None
    memory: Annotated[bytes, msgspec.Meta(max_length=16)] = b""


_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(CallHeader)
_failure_decoder = msgspec.msgpack.Decoder(Failure)


def header_message(header: CallHeader) -> bytes:
    """The first message of a call."""
    encoded = _encoder.encode(header)
    return _HEADER_HEAD.pack(HEADER, len(encoded)) + encoded


def failure_message(failure: Failure) -> bytes:
    """The message that ends a call which did not succeed."""
    return bytes((FAILURE,)) + _encoder.encode(failure)


def value_messages(value: bytes | Encoded, before: bytes = b"") -> Iterator[bytes]:
    """The messages of a value; ``before`` (a header) goes into the first."""
    if isinstance(value, bytes):
        value = Encoded(value)
    sizes = [memoryview(buffer).nbytes for buffer in value.buffers]
    head = _VALUE_HEAD.pack(VALUE, len(value.body), len(sizes)) + b"".join(map(_SIZE.pack, sizes))
    if value.size <= MAX_WHOLE:
        yield b"".join((before, head, value.body, *value.buffers))
        return
    parts: list[bytes | memoryview] = [before, head]
    room = FRAGMENT
    for source in (value.body, *value.buffers):
        view = memoryview(source).cast("B")
        while len(view):
            parts.append(view[:room])
            taken = min(room, len(view))
            view, room = view[taken:], room - taken
            if not room:
                yield b"".join(parts)
                parts, room = [bytes((MORE,))], FRAGMENT
    if len(parts) > 1:
        yield b"".join(parts)


class ValueReader:
    """Puts values together again.

    Attributes:
        admit: Told the bytes of each value before anything is kept of it; raises if there is no room.
    """

    def __init__(self, admit: Callable[[int], None] | None = None) -> None:
        self.admit = admit
        self._wholes: list[memoryview] = []
        self._targets: list[memoryview] = []

    @property
    def is_between(self) -> bool:
        """Whether the last value is complete."""
        return not self._targets

    def header(self, message: bytes) -> tuple[CallHeader, memoryview]:
        """The header in a call's first message, and what follows it there: the message of a value, or nothing."""
        if len(message) < _HEADER_HEAD.size or message[0] != HEADER:
            raise RemoteProtocolError("a call without a header")
        length = _HEADER_HEAD.unpack_from(message)[1]
        end = _HEADER_HEAD.size + length
        if length > MAX_HEADER or end > len(message):
            raise RemoteProtocolError("a call with a truncated header")
        try:
            header = _header_decoder.decode(message[_HEADER_HEAD.size : end])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise RemoteProtocolError(f"a call with a malformed header: {error}") from error
        return header, memoryview(message)[end:]

    def feed(self, message: bytes | memoryview) -> Encoded | Failure | None:
        """A value or failure, if this message completes one; `RemoteProtocolError` if it is malformed."""
        kind = message[0] if len(message) else 0
        if kind == MORE and self._targets:
            return self._fill(memoryview(message)[1:])
        if kind == VALUE and not self._targets:
            return self._begin(memoryview(message))
        if kind == FAILURE:
            try:
                return _failure_decoder.decode(message[1:])
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise RemoteProtocolError(f"a malformed failure: {error}") from error
        raise RemoteProtocolError(f"an unexpected message of kind {kind} in a call")

    def _begin(self, message: memoryview) -> Encoded | None:
        if len(message) < _VALUE_HEAD.size:
            raise RemoteProtocolError("a truncated value")
        _, body_size, count = _VALUE_HEAD.unpack_from(message)
        start = _VALUE_HEAD.size + count * _SIZE.size
        if count > MAX_BUFFERS or body_size > MAX_BODY or start > len(message):
            raise RemoteProtocolError(f"a value with {count} buffers and a body of {body_size} bytes")
        sizes = [_SIZE.unpack_from(message, _VALUE_HEAD.size + at * _SIZE.size)[0] for at in range(count)]
        total, data = body_size + sum(sizes), message[start:]
        if total > MAX_VALUE:
            raise RemoteProtocolError(f"a value of {total} bytes, {MAX_VALUE} allowed")
        if self.admit is not None:
            self.admit(total)
        if len(data) == total:
            return _slices(data, [body_size, *sizes])
        try:
            self._wholes = [_reserved(size) for size in (body_size, *sizes)]
        except (MemoryError, OSError) as error:
            raise RemoteProtocolError(f"a value of {total} bytes, for which there is no memory here") from error
        self._targets = [whole for whole in self._wholes if len(whole)]
        return self._fill(data)

    def _fill(self, data: memoryview) -> Encoded | None:
        while len(data) and self._targets:
            target = self._targets[0]
            taken = min(len(target), len(data))
            target[:taken] = data[:taken]
            data = data[taken:]
            if taken == len(target):
                self._targets.pop(0)
            else:
                self._targets[0] = target[taken:]
        if len(data):
            raise RemoteProtocolError("more bytes than the value has")
        if self._targets:
            return None
        body, *buffers = self._wholes
        self._wholes = []
        return Encoded(bytes(body), buffers)


def _reserved(size: int) -> memoryview:
    """Memory for so many bytes; much of it is only addresses until it is written to: a peer may claim anything."""
    if size < FRAGMENT:
        return memoryview(bytearray(size))
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _slices(data: memoryview, sizes: list[int]) -> Encoded:
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return Encoded(bytes(parts[0]), parts[1:])
