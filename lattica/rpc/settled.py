"""What a call that has ended says, without waiting for it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any, Protocol

import grpc


class HasCode(Protocol):
    """A `grpc.aio.Call`."""

    def code(self) -> Awaitable[grpc.StatusCode]:
        """Its status."""


def settled_code(call: HasCode) -> grpc.StatusCode:
    """The status of a call that is done, for its done callback: asking for it does not wait any more."""
    asking = call.code()
    if not inspect.iscoroutine(asking):
        return grpc.StatusCode.UNKNOWN
    try:
        asking.send(None)
    except StopIteration as answer:
        return status_of(answer.value)
    except Exception:  # noqa: BLE001 - an interceptor's own error: that call has no status
        return grpc.StatusCode.UNKNOWN
    asking.close()
    return grpc.StatusCode.UNKNOWN


def status_of(code: Any) -> grpc.StatusCode:
    """The status that a servicer context or a call names: by itself, by its number, or not at all."""
    if isinstance(code, grpc.StatusCode):
        return code
    return _BY_NUMBER.get(code or 0, grpc.StatusCode.UNKNOWN)


def outcome_of(code: grpc.StatusCode) -> str:
    """A status as metrics name it: ``deadline_exceeded``."""
    return code.name.lower()


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
