"""The caller's side of plain Python services: an object with the service's methods that calls a peer's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from lattica.errors import UsageError
from lattica.rpc.batch_calls import Lane
from lattica.rpc.batch_wire import MAX_TIMEOUT_S
from lattica.rpc.retry import ATTEMPTS
from lattica.rpc.service import MethodSpec, ServiceSpec

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How a stub calls.

    Attributes:
        timeout: Seconds for each call, retries included; ``None`` for no deadline. A handler's own deadline bounds the
            calls that it makes, too.
        attempts: Attempts of one call at most; only what may run twice, or was not begun, is tried again.
        hedge_after: Seconds after which an idempotent unary call that is not answered is made a second time, the first
            answer counting; ``None`` for never.
        traceback: Whether a `RemoteError` should say where the peer's method raised.
        key: For calls by name: those with the same key go to the same replica, for as long as it is well.
    """

    timeout: float | None = None
    attempts: int = ATTEMPTS
    hedge_after: float | None = None
    traceback: bool = False
    key: str | bytes | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout <= MAX_TIMEOUT_S:
            raise UsageError(
                f"a timeout of {self.timeout} s: more than 0 and at most {MAX_TIMEOUT_S}, or None for no deadline"
            )
        if self.attempts < 1:
            raise UsageError(f"{self.attempts} attempts: at least 1")
        if self.hedge_after is not None and not 0 <= self.hedge_after <= MAX_TIMEOUT_S:
            raise UsageError(f"hedge_after of {self.hedge_after} s: 0 to {MAX_TIMEOUT_S}, or None for never")


class Caller(Protocol):
    """Makes calls: to one peer, or to the replicas of a name."""

    def method(self, spec: MethodSpec, opts: CallOptions, lane: Lane) -> Callable[..., Any]:
        """What a stub has for a method."""


class Stub:
    """What `Rpc.stub` and `Rpc.service` make: has the service's methods as attributes."""

    def __init__(self, caller: Caller, spec: ServiceSpec, options: CallOptions) -> None:
        self._lattica = (caller, spec, options)
        lane = Lane()
        for attribute, method in spec.methods.items():
            setattr(self, attribute, caller.method(method, options, lane))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service {self._lattica[1].name} has no method {name}")

    def __repr__(self) -> str:
        caller, spec, _ = self._lattica
        return f"<stub of {spec.name} at {caller}>"


def make_stub(caller: Caller, cls: type[S], spec: ServiceSpec, options: CallOptions) -> S:
    """A stub, typed as the service."""
    return cast(S, Stub(caller, spec, options))


def options(stub: S, **changes: Any) -> S:
    """The same stub with other call options, see `CallOptions`: ``rpc.options(stub, timeout=1.0).add(1, 2)``.

    Raises:
        UsageError: It is no stub, or an option is unknown or wrong.
    """
    if not isinstance(stub, Stub):
        raise UsageError(f"{stub!r} is no stub; node.rpc.stub(Service, peer) makes one")
    caller, spec, old = stub._lattica
    return cast(S, Stub(caller, spec, changed(old, changes)))


def changed(old: CallOptions, changes: dict[str, Any]) -> CallOptions:
    """Options with some replaced; raises `UsageError`."""
    try:
        return replace(old, **changes)
    except TypeError as error:
        known = ", ".join(CallOptions.__slots__)
        raise UsageError(f"unknown call option: {error}; there are {known}") from error
