"""A fixed row of typed values on the wire: what both faces of the codec are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from lattica.errors import CodecError, DecodeError
from lattica.rpc.codec.arrays import Buffer
from lattica.rpc.codec.declared import (
    adapt,
    custom_kinds,
    has_any,
    info_of,
    is_recursive,
    make_choice,
    takes_anything,
    takes_bytes,
)
from lattica.rpc.codec.decoding import Decoding
from lattica.rpc.codec.encoding import BYTES_VIEWS, Encoding, large_bytes, plain_hook
from lattica.rpc.codec.limits import MAX_BUFFERS, MAX_DEPTH, MIN_BYTES_BUFFER, UNSCANNED_BODY, LimitError, check_body
from lattica.rpc.codec.walks import make_walk

_PLACE: Final = re.compile(r"`\$\[(\d+)\]([^`]*)`")
_UNTYPED_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_FIXARRAY: Final = 0x90
_MAX_FIXARRAY: Final = 15
_MAX_REASON: Final = 500
"""Characters of a reason: it may quote what a peer sent."""


class Encoded(NamedTuple):
    """A message: a msgpack body, and what travels beside it.

    Attributes:
        body: msgpack.
        buffers: Flat, C-contiguous bytes in the order of their index in the body. They are the sender's own
            memory wherever that was possible: it must not change until they are sent.
    """

    body: bytes
    buffers: Sequence[Buffer] = ()

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.body) + sum(len(buffer) for buffer in self.buffers)


class Slot(NamedTuple):
    """One place of a row: what it is called in errors, its declared type, and a default for senders that lack it."""

    where: str
    hint: Any
    default: Callable[[], object] | None = None


class Row:
    """Encodes and decodes tuples with a value for each of ``slots``.

    Raises:
        CodecError: A declared type can never be sent or received.
    """

    def __init__(self, slots: Sequence[Slot], where: str) -> None:
        self._slots = tuple(slots)
        self._where = where
        hints = [_checked(slot) for slot in slots]
        infos = [info_of(hint) for hint in hints]
        kinds = frozenset[str]().union(*map(custom_kinds, infos))
        untyped = any(map(has_any, infos))
        arrays = kinds & {"ndarray", "tensor"}
        self._only = next(iter(arrays)) if len(arrays) == 1 and not untyped else None
        self._plain = not untyped and not kinds
        self._bounded = self._plain and not any(map(is_recursive, infos))
        self._harmless = UNSCANNED_BODY if self._bounded else MAX_DEPTH
        # scalars in untyped positions have no depth either
        self._unchecked = UNSCANNED_BODY if self._bounded or not self._plain else 0
        self._walks = [(at, walk) for at, info in enumerate(infos) if (walk := make_walk(info))]
        self._bytes_at = tuple(at for at, info in enumerate(infos) if takes_bytes(info))
        self._large_at = tuple(at for at, info in enumerate(infos) if takes_bytes(info) or takes_anything(info))
        self._type = _struct(slots, hints)
        beside = [
            make_choice([], [hint], bytes_kind=takes_bytes(info)) if at in self._bytes_at else hint
            for at, (hint, info) in enumerate(zip(hints, infos, strict=True))
        ]
        self._type_beside = _struct(slots, beside) if self._bytes_at else self._type
        self._encode = msgspec.msgpack.Encoder(enc_hook=plain_hook).encode
        alone = Decoding((), self._only)  # without buffers it has no state, and serves all messages
        hooks: Any = {"ext_hook": alone.extension, "dec_hook": alone.custom}
        self._decode = msgspec.msgpack.Decoder(self._type, **hooks).decode
        # msgspec makes tuples faster than structs, but only for a sender with the very same parameters
        self._header = _FIXARRAY | len(hints) if len(hints) <= _MAX_FIXARRAY else -1
        exact: Any = tuple.__class_getitem__(tuple(hints))
        self._decode_exact: Callable[[Buffer], tuple[Any, ...]] = msgspec.msgpack.Decoder(exact, **hooks).decode

    def encode_small(self, values: tuple[Any, ...]) -> bytes | Encoded:
        """The body alone if nothing travels beside it."""
        for at in self._large_at:
            value = values[at]
            kind = type(value)
            if len(value) >= MIN_BYTES_BUFFER if kind is bytes else kind in BYTES_VIEWS and large_bytes(value):
                return self._encode_beside(values)
        if not self._plain and not _UNTYPED_SCALARS.issuperset(map(type, values)):
            return self._encode_beside(values)
        try:
            body = self._encode(values)
            if len(body) > self._unchecked:
                check_body(body, bounded_depth=self._bounded)
        except _ENCODING_FAILED as error:
            raise self._blame(values, error) from None
        return body

    def _encode_beside(self, values: tuple[Any, ...]) -> bytes | Encoded:
        encoding = Encoding()
        try:
            body = self._body(values, encoding)
        except _ENCODING_FAILED as error:
            raise self._blame(values, error) from None
        return Encoded(body, encoding.buffers) if encoding.buffers else body

    def _body(self, values: Sequence[Any], encoding: Encoding) -> bytes:
        row = list(values)
        for at in self._bytes_at:
            if large_bytes(row[at]):
                row[at] = encoding.raw_bytes(row[at])
        for at, walk in self._walks:
            row[at] = walk(row[at], encoding)
        body = msgspec.msgpack.encode(row, enc_hook=encoding.hook)
        check_body(body, bounded_depth=self._bounded)
        return body

    def _blame(self, values: tuple[Any, ...], error: Exception) -> CodecError:
        """The error that names the slot which cannot be sent: the first that fails without the others."""
        for at, slot in enumerate(self._slots):
            alone: list[Any] = [None] * len(values)
            alone[at] = values[at]
            try:
                self._body(alone, Encoding())
            except _ENCODING_FAILED as own:
                return CodecError(slot.where, _reason(own))
        return CodecError(self._where, _reason(error))

    def decode(self, body: Buffer, buffers: Sequence[Buffer] = ()) -> tuple[Any, ...]:
        """The values; a missing one is its default.

        Raises:
            DecodeError: ``body`` and ``buffers`` are not what `encode_small` makes of values of these types.
        """
        try:
            if len(body) > self._harmless:  # as check_body says itself, without calling it for each small message
                check_body(body, bounded_depth=self._bounded)
            if buffers:
                return self._decode_beside(body, buffers)
            if body and body[0] == self._header:
                return self._decode_exact(body)
            return msgspec.structs.astuple(self._decode(body))
        except Exception as error:  # declared classes run code of their own, on what a peer made up
            raise self._malformed(error) from error

    def _decode_beside(self, body: Buffer, buffers: Sequence[Buffer]) -> tuple[Any, ...]:
        if len(buffers) > MAX_BUFFERS:
            raise LimitError(f"it has {len(buffers)} buffers; at most {MAX_BUFFERS} are allowed")
        decoding = Decoding(buffers, self._only)
        values = msgspec.msgpack.decode(
            body,
            type=self._type_beside,
            ext_hook=decoding.extension,
            dec_hook=decoding.custom,
        )
        decoding.finish(body)
        return msgspec.structs.astuple(values)

    def _malformed(self, error: Exception) -> DecodeError:
        reason = _reason(error)
        place = _PLACE.search(reason)
        if place is None or int(place[1]) >= len(self._slots):
            return DecodeError(self._where, reason)
        reason = _PLACE.sub(lambda match: f"`{match[2].lstrip('.')}`" if match[2] else "its top", reason)
        return DecodeError(self._slots[int(place[1])].where, reason)


_ENCODING_FAILED: Final = (TypeError, ValueError, OverflowError, AttributeError, BufferError, RuntimeError)
"""What msgspec, NumPy, torch and we raise for what cannot be sent; their own classes are below these."""


_ADVICE: Final = (
    " (a union of arrays or messages with others is no type for a field of a class, only outside of classes)"
)


def _checked(slot: Slot) -> Any:
    """What msgspec takes for the declared type of ``slot``."""
    try:
        hint = adapt(slot.hint)
        info_of(hint)
        msgspec.msgpack.Decoder(hint)
    except (TypeError, NameError, AttributeError, msgspec.MsgspecError) as error:
        raise CodecError(slot.where, f"{error}; declare another type{_ADVICE * ('union' in str(error))}") from error
    return hint


def _struct(slots: Sequence[Slot], hints: Sequence[Any]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for at, (slot, hint) in enumerate(zip(slots, hints, strict=True)):
        field = (f"a{at}", hint)
        fields.append((*field, msgspec.field(default_factory=slot.default)) if slot.default else field)
    return msgspec.defstruct("Row", fields, array_like=True, kw_only=True)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep, or holds itself"
    return (str(error) or type(error).__name__)[:_MAX_REASON]
