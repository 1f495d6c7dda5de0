"""The numbers, strings and values that Yjs updates consist of: lib0's encoding, as strict as its writers are.

All readers take the bytes and a position, and give what they read and the position after it. Beyond the end they raise
`IndexError`, for wrong UTF-8 `UnicodeDecodeError`, otherwise `DocumentUpdateError`; `lattica.store.yupdate` makes one
error of them. See https://github.com/dmonad/lib0/blob/main/encoding.js.
"""

from __future__ import annotations

import json

import msgspec

from lattica.errors import DocumentUpdateError

MAX_INTEGER = 2**53 - 1
"""The largest integer that JavaScript, and so Yjs, counts exactly. yrs cuts larger client IDs, to other clients'."""
MAX_NESTING = 64
"""Depth of a value. yrs reads any depth by recursion: some 100 kB of brackets overflow its stack and end the process.
For JSON it refuses more than 127."""

_SHIFTS = range(7, 50, 7)  # eight bytes of seven bits hold 2**53
_SIGNED_SHIFTS = range(6, 50, 7)

_CLIENTS: dict[bytes, int] = {}
_CLIENT_BYTES = 8
_MAX_CLIENTS = 1 << 12


def read_uint(raw: bytes, at: int) -> tuple[int, int]:
    """A non-negative integer, 7 bits a byte, lowest first, in as few bytes as it needs."""
    byte = raw[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value = byte & 0x7F
    for shift in _SHIFTS:
        byte = raw[at]
        at += 1
        if byte < 0x80:
            return _checked(value | byte << shift, byte), at
        value |= (byte & 0x7F) << shift
    raise DocumentUpdateError("an integer has too many bytes")


def read_client(raw: bytes, at: int) -> tuple[int, int]:
    """A client ID; as `read_uint`, and quicker for those that come again: most have eight bytes."""
    known = _CLIENTS.get(raw[at : at + _CLIENT_BYTES])
    if known is not None:
        return known, at + _CLIENT_BYTES
    client, end = read_uint(raw, at)
    if end - at == _CLIENT_BYTES:
        if len(_CLIENTS) >= _MAX_CLIENTS:
            _CLIENTS.clear()
        _CLIENTS[raw[at:end]] = client
    return client, end


def skip_int(raw: bytes, at: int) -> int:
    """Pass a signed integer: 6 bits and the sign in its first byte."""
    byte = raw[at]
    at += 1
    if byte < 0x80:
        return at
    value = byte & 0x3F
    for shift in _SIGNED_SHIFTS:
        byte = raw[at]
        at += 1
        if byte < 0x80:
            _checked(value | byte << shift, byte)
            return at
        value |= (byte & 0x7F) << shift
    raise DocumentUpdateError("an integer has too many bytes")


def read_bytes(raw: bytes, at: int) -> tuple[bytes, int]:
    """Bytes with their number before them."""
    size, at = read_uint(raw, at)
    end = at + size
    if end > len(raw):
        raise IndexError
    return raw[at:end], end


def read_text(raw: bytes, at: int) -> tuple[str, int]:
    """A string; surrogates are refused, as everywhere in UTF-8."""
    text, at = read_bytes(raw, at)
    return text.decode(), at


def read_count(raw: bytes, at: int) -> tuple[int, int]:
    """How many follow, each of at least one byte: yrs allocates for as many as are announced."""
    count, at = read_uint(raw, at)
    if count > len(raw) - at:
        raise IndexError
    return count, at


def skip_any(raw: bytes, at: int, depth: int = 1) -> int:
    """Pass a value in lib0's own encoding."""
    tag = raw[at]
    at += 1
    size = _FIXED_SIZES.get(tag)
    if size is not None:
        if at + size > len(raw):
            raise IndexError
        return at + size
    if tag == _INTEGER:
        return skip_int(raw, at)
    if tag == _STRING:
        return read_text(raw, at)[1]
    if tag == _BYTES:
        return read_bytes(raw, at)[1]
    return _skip_collection(raw, at, tag, depth)


def sort_any(raw: bytes, at: int) -> tuple[bytes, int]:
    """A value in lib0's own encoding with the keys of mappings in order: yrs writes them in any."""
    tag = raw[at]
    if tag not in (_LIST, _MAP):
        end = skip_any(raw, at)
        return raw[at:end], end
    start = at
    count, at = read_count(raw, at + 1)
    head = raw[start:at]
    parts = []
    for _ in range(count):
        key_at = at
        if tag == _MAP:
            at = read_text(raw, at)[1]
        key = raw[key_at:at]
        value, at = sort_any(raw, at)
        parts.append(key + value)
    return head + b"".join(sorted(parts) if tag == _MAP else parts), at


def sort_json(raw: bytes, at: int) -> tuple[bytes, int]:
    """The same for a value in JSON, with its size before it."""
    text, end = read_bytes(raw, at)
    text = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return write_uint(len(text)) + text, end


def write_uint(value: int) -> bytes:
    """A non-negative integer, as `read_uint` reads it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def skip_json(raw: bytes, at: int) -> int:
    """Pass a value in JSON, with its size before it."""
    text, at = read_bytes(raw, at)
    if text in _PLAIN_JSON:
        return at
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentUpdateError("a value is not JSON") from error
    if text.count(b"[") + text.count(b"{") >= MAX_NESTING:
        _check_depth(value)
    return at


def _checked(value: int, last: int) -> int:
    if not last:
        raise DocumentUpdateError("an integer has more bytes than it needs")
    if value > MAX_INTEGER:
        raise DocumentUpdateError("an integer is too large")
    return value


_BYTES, _LIST, _MAP, _STRING, _INTEGER = 116, 117, 118, 119, 125
# true, false, bigint, float64, float32, null, undefined
_FIXED_SIZES = {120: 0, 121: 0, 122: 8, 123: 8, 124: 4, 126: 0, 127: 0}
_PLAIN_JSON = (b"null", b"true", b"false", b"{}", b"[]")


def _skip_collection(raw: bytes, at: int, tag: int, depth: int) -> int:
    if tag not in (_LIST, _MAP):
        raise DocumentUpdateError(f"values have no type {tag}")
    if depth >= MAX_NESTING:
        raise DocumentUpdateError("a value is nested too deep")
    count, at = read_count(raw, at)
    for _ in range(count):
        if tag == _MAP:
            at = read_text(raw, at)[1]
        at = skip_any(raw, at, depth + 1)
    return at


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        if not below:
            return
        level = below
    raise DocumentUpdateError("a value is nested too deep")
