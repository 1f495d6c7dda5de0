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
)
from lattica.rpc import batch_wire as wire

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
    kind = type(error).__qualname__
    text = _text(error)
    trace = "".join(traceback.format_exception(error))[-wire.MAX_DETAIL :] if with_traceback else ""
    return wire.Failure(number, wire.RAISED, kind[: wire.MAX_METHOD], text[: wire.MAX_DETAIL], trace)


def error_of(method: str, failure: wire.Failure, declared: Sequence[type[Exception]] = ()) -> LatticaError:
    """The error that the caller of a failed call gets."""
    match failure.code:
        case wire.BUSY:
            return ServerBusyError(method, failure.message)
        case wire.NO_METHOD:
            return NoSuchMethodError(method)
        case wire.EXPIRED:
            return DeadlineExceededError(method)
        case wire.BAD_CALL:
            return DecodeError(failure.kind or f"an argument of {method}", failure.message)
        case wire.BAD_RESULT:
            return RpcError(
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
    try:
        return made(method, failure.kind, failure.message, failure.traceback)
    except Exception:  # noqa: BLE001 - as below, for this text
        return RemoteError(method, failure.kind, failure.message, failure.traceback)


def _combined(kind: type[Exception]) -> type[RemoteError]:
    """A class that is both; for one that cannot be combined, `RemoteError`."""
    made = _made.get(kind)
    if made is None:
        made = _made[kind] = _combine(kind)
    return made


def _combine(kind: type[Exception]) -> type[RemoteError]:
    try:
        made = type(f"Remote{kind.__name__}", (RemoteError, kind), {"__module__": __name__})
        made("", "", "")
    except Exception:  # noqa: BLE001 - a class of the service's, with a constructor or a layout of its own
        return RemoteError
    return made


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a service's exception whose `__str__` fails
        return "(its text cannot be made)"
