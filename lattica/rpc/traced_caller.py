"""Calls of which each attempt is a span."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lattica.rpc.batch_calls import Lane
from lattica.rpc.codec import Encoded
from lattica.rpc.own_client import OwnCall
from lattica.rpc.peer_caller import PeerCaller
from lattica.rpc.service import MethodSpec
from lattica.rpc.tracing import CallTracing, ended_by_block


class TracedCaller(PeerCaller):
    """The same caller with spans."""

    def __init__(self, caller: PeerCaller, tracing: CallTracing) -> None:
        # Not PeerCaller's: the calls share its session.
        self.channel = caller.channel
        self.batch = caller.batch
        self.bulk = caller.bulk
        self.large = caller.large
        self._tracing = tracing

    async def unary(
        self,
        spec: MethodSpec,
        args: bytes | Encoded,
        lane: Lane,
        deadline: float | None,
        flags: int,
        *,
        can_move: bool = False,
    ) -> Any:
        """See `PeerCaller`."""
        span = self._tracing.called(self.channel.peer_id, spec.path)
        with ended_by_block(span), span.current():
            return await super().unary(spec, args, lane, deadline, flags, can_move=can_move)

    @contextlib.contextmanager
    def streaming(self, spec: MethodSpec, deadline: float | None, flags: int) -> Iterator[OwnCall]:
        """See `PeerCaller`."""
        span = self._tracing.called(self.channel.peer_id, spec.path)
        with ended_by_block(span), contextlib.ExitStack() as block:
            with span.current():  # for its context to be sent; the caller's own code runs between the messages
                call = block.enter_context(super().streaming(spec, deadline, flags))
            yield call
