"""Exceptions of a peer's methods: how they travel, and as what they arrive.

An exception's class name and text travel, nothing else of it. The name picks a class from Python's own exceptions or
from those that the method declares; a peer cannot have any other class made.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from lattica.errors import (
    DeadlineExceededError,
    DecodeError,
    LatticaError,
    NoSuchMethodError,
    OutcomeUnknownError,
    RemoteError,
    RpcError,
    ServerBusyError,
    UnsendableResultError,
)
from lattica.rpc import batch_wire as wire
from lattica.rpc.exits import RaisedExitError

_OWN = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, UnicodeError | Warning)
    and value not in {Exception, ExceptionGroup, StopIteration, StopAsyncIteration}
}  # fmt: skip
"""Python's exceptions that can be made of a text, and do not mean something to the machinery between."""


_made: WeakKeyDictionary[type[Exception], type[RemoteError]] = WeakKeyDictionary()


def failure_of(number: int, error: BaseException, *, with_traceback: bool) -> wire.Failure:
    """The failure that tells the caller of a method's exception."""
    if isinstance(error, RaisedExitError):
        error = error.raised
    kind = _unicode(type(error).__qualname__[: wire.MAX_METHOD])[: wire.MAX_METHOD]
    text = _unicode(_text(error)[: wire.MAX_DETAIL])[: wire.MAX_DETAIL]
    trace = _trace(error)[-wire.MAX_DETAIL :] if with_traceback else ""
    return wire.Failure(number, wire.RAISED, kind, text, trace)


def error_of(method: str, failure: wire.Failure, declared: Sequence[type[Exception]] = ()) -> LatticaError:
    """The error that the caller of a failed call gets."""
    match failure.code:
        case wire.BUSY:
            return ServerBusyError(method, failure.message, has_begun=failure.kind == wire.BEGUN)
        case wire.NO_METHOD:
            return NoSuchMethodError(method)
        case wire.EXPIRED:
            return DeadlineExceededError(method)
        case wire.BAD_CALL:
            return DecodeError(failure.kind or f"an argument of {method}", failure.message)
        case wire.BAD_RESULT:
            return UnsendableResultError(
                f"{method} was executed, but {failure.kind or 'its result'} cannot be sent: {failure.message}"
            )
        case wire.FORGOTTEN:
            return OutcomeUnknownError(method, f"it was executed, but {failure.message}")
        case wire.RAISED:
            return remote_error(method, failure, declared)
        case code:
            return RpcError(f"{method} failed for an unknown reason ({code}): {failure.message}")


def remote_error(method: str, failure: wire.Failure, declared: Sequence[type[Exception]] = ()) -> RemoteError:
    """The `RemoteError` of an exception, and an instance of its class as well where that is known."""
    known = next((kind for kind in declared if kind.__qualname__ == failure.kind), None) or _OWN.get(failure.kind)
    made = RemoteError if known is None else _combined(known)
    return made(method, failure.kind, failure.message, failure.traceback)


def _combined(kind: type[Exception]) -> type[RemoteError]:
    """A class that is both; for one that cannot be combined, `RemoteError`. Its own constructor is not called."""
    made = _made.get(kind)
    if made is None:
        made = _made[kind] = _combine(kind)
    return made


def _combine(kind: type[Exception]) -> type[RemoteError]:
    try:
        made = type(f"Remote{kind.__name__}", (RemoteError, kind), {"__module__": __name__})
        made("", "", "")
    except Exception:  # noqa: BLE001 - a class of the service's, with a layout of its own or a wish for no other bases
        return RemoteError
    return made


def _unicode(text: str) -> str:
    """The text without lone surrogates, which have no form in UTF-8: names of files on disk may have some."""
    return text.encode(errors="backslashreplace").decode()


def _trace(error: BaseException) -> str:
    return _unicode("".join(traceback.format_exception(error))[-wire.MAX_DETAIL :])


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a service's exception whose `__str__` fails
        return "(its text cannot be made)"
