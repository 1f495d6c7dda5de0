"""gRPC to peer IDs: the node's server and its channels."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc

from lattica.background import Background, background_tasks
from lattica.errors import UsageError
from lattica.identity import PeerId, TlsIdentity
from lattica.rpc.call_server import CallServer
from lattica.rpc.channel import PeerChannel
from lattica.rpc.dispatch import Dispatcher
from lattica.rpc.health import Health
from lattica.rpc.local_target import open_local_target
from lattica.rpc.metrics import METRICS, RpcMetrics
from lattica.rpc.native_server import NativeAddress
from lattica.rpc.options import DRAIN_S
from lattica.rpc.peer_caller import PeerCaller
from lattica.rpc.ports import RouteOpener
from lattica.rpc.python_services import PythonServices
from lattica.rpc.replica_stub import ReplicaCaller
from lattica.rpc.replicas import Replicas, check_offer
from lattica.rpc.server import RpcServer, open_server
from lattica.rpc.service import spec_of
from lattica.rpc.stub import CallOptions, changed, make_stub
from lattica.rpc.traced_caller import TracedCaller
from lattica.rpc.tracing import CallTracing

S = TypeVar("S")

_CLIENT_INTERCEPTORS = (
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
)


class Rpc:
    """Calls peers and serves them; made by `open_rpc`."""

    def __init__(self, server: RpcServer, opener: RouteOpener, tasks: Background) -> None:
        self._server = server
        self._opener = opener
        self._tasks = tasks
        self._channels: dict[tuple[PeerId, tuple[int, ...]], PeerChannel] = {}
        self._callers: dict[PeerId, PeerCaller] = {}
        self._targets = itertools.count(1)
        self._closed = False
        self._replicas: Replicas | None = None
        self._tracing: CallTracing | None = None
        self._calls = CallServer(Dispatcher(), server.metrics)
        self._calls.start(tasks)
        server.add_own(PythonServices(self._calls))

    @property
    def health(self) -> Health:
        """What peers learn of this node's services by ``grpc.health.v1``."""
        return self._server.health

    @property
    def native_port(self) -> int:
        """TCP port at which peers may call this node without its gateway; 0 if there is none."""
        return self._server.native_port

    @property
    def metrics(self) -> RpcMetrics:
        """Where calls are counted, ours and those of peers."""
        return self._server.metrics

    def channel(self, peer: PeerId, *, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()) -> PeerChannel:
        """The channel to a peer, for generated stubs; the same one each time, made without waiting.

        Args:
            peer: Whom to call.
            interceptors: See the calls of this channel, once the peer is found, the first outermost. Each
                combination of these objects is a channel with a connection of its own, so keep and reuse them.

        Raises:
            UsageError: One is no interceptor of `grpc.aio`.
        """
        key = (peer, tuple(map(id, interceptors)))  # the channel keeps the interceptors, hence their ids, alive
        channel = self._channels.get(key)
        if channel is None or (channel.closed and not self._closed):
            for interceptor in interceptors:
                if not isinstance(interceptor, _CLIENT_INTERCEPTORS):
                    raise UsageError(
                        f"{interceptor!r} is no grpc.aio client interceptor of one of the four kinds of call"
                    )
            channel = self._channels[key] = PeerChannel(
                peer,
                self._opener,
                self._tasks,
                closed=self._closed,
                interceptors=tuple(interceptors),
                metrics=self.metrics,
            )
        return channel

    @contextlib.asynccontextmanager
    async def local_target(self, peer: PeerId) -> AsyncIterator[str]:
        """A gRPC target on this machine that leads to a peer while the block runs: ``unix:…``, without TLS.

        For programs that take no channel: synchronous stubs, `grpcurl -plaintext`. The socket is in a folder
        that only this user may open; whoever opens it calls the peer in this node's name.
        """
        path = self._server.path.with_name(f"t{next(self._targets)}")
        async with open_local_target(path, self.channel(peer)) as target:
            yield target

    def add_servicer(self, register: Callable[[S, grpc.aio.Server], None], servicer: S) -> None:
        """Serve a generated service to peers: ``add_servicer(add_FooServicer_to_server, Foo())``.

        Its methods find out who calls with `caller_id`.
        """
        self._server.add_servicer(register, servicer)

    def serve(self, service: object, *, name: str | None = None, announce: bool = False, capacity: int = 1) -> None:
        """Let peers call an object whose class is decorated with `lattica.rpc.service`; also while running.

        Args:
            service: The object.
            name: Of the service, instead of the one that its class declares: objects of one class that serve different
                layers have different names.
            announce: Whether everybody may find this node by that name (see `service`), until
                ``node.rpc.replicas.withdraw(name)`` or the node's end; if not, only who knows the node calls it.
            capacity: Calls that it does well to run at once, for callers to choose among replicas of different sizes;
                announced with the number of calls that are under way.

        Raises:
            UsageError: Its class is no service, one of that name is served already, no service can have that name, or
                this room was opened without a node, so that nobody can be told.
            CodecError: A method's annotations name a type whose values cannot travel.
        """
        spec, dispatcher = spec_of(type(service), name), self._calls.dispatcher
        replicas = self.replicas if announce else None
        check_offer(spec.name, capacity)
        dispatcher.add(spec, service)
        if replicas is not None:
            replicas.announce(spec.name, capacity=capacity, load=lambda: dispatcher.load(spec.name))

    def service(self, name: str, service: type[S], **options: Any) -> S:
        """An object that has the methods of a service and calls whichever peer offers a name; made without waiting.

        Each call goes to a healthy replica, by load and latency; one that dies, refuses or does not know the method is
        left for another one, if the call has not begun there or its method is idempotent. With ``key`` calls go to the
        same replica for as long as it is well, for what it keeps between them. ``rpc.options(stub, key="session 7")``
        makes such a stub of another. Replicas are other nodes, never this one.

        Args:
            name: What the replicas were announced as: see `serve`.
            service: The class, as decorated with `lattica.rpc.service`.
            options: Those of `CallOptions`. A call without a replica to go to waits for one until its deadline, at most
                30 s; then it is `NoReplicaError`. Other errors are those of `stub`.

        Raises:
            UsageError: The class is no service, no service can have that name, an option is unknown or wrong, or this
                room was opened without a node.
        """
        caller = ReplicaCaller(self.replicas.replica_set(name), self._caller)
        return make_stub(caller, service, spec_of(service, name), changed(CallOptions(), options))

    def stub(self, service: type[S], peer: PeerId, *, name: str | None = None, **options: Any) -> S:
        """An object that has the methods of a service and calls a peer's; made without waiting.

        ``await stub.add(1, b=2)`` for a method with one result, ``async for`` for a stream of them. Errors are those of
        `lattica.errors`: `RemoteError` if the method raised, `PeerUnreachableError`, `ServerBusyError`,
        `DeadlineExceededError`, `OutcomeUnknownError`, `CodecError`, all of them `LatticaError`. Cancelling a call
        cancels it at the peer.

        Args:
            service: The class, as decorated with `lattica.rpc.service`.
            peer: Whom to call.
            name: Of the service, if it is served under another one than its class declares.
            options: Those of `CallOptions`: ``timeout=5.0`` and so on.

        Raises:
            UsageError: The class is no service, or an option is unknown or wrong.
        """
        return make_stub(self._caller(peer), service, spec_of(service, name), changed(CallOptions(), options))

    @property
    def replicas(self) -> Replicas:
        """What this node offers by name, and whom it calls by name.

        Raises:
            UsageError: This room was opened without a node, so that there is nobody to ask who offers a name.
        """
        if self._replicas is None:
            raise UsageError("services are found by name only in a node: open one with lattica.open_node")
        return self._replicas

    def use_replicas(self, replicas: Replicas) -> None:
        """Find services by name with ``replicas``, which ends before this room does."""
        self._replicas = replicas

    def heard_of(self, peer: PeerId) -> None:
        """A peer runs, as its connection to us shows: calls that failed to reach it may try again at once."""
        for (whose, _), channel in self._channels.items():
            if whose == peer:
                channel.heard_of()

    def _caller(self, peer: PeerId) -> PeerCaller:
        caller = self._callers.get(peer)
        if caller is None or caller.channel.closed:
            caller = self._callers[peer] = self._traced(PeerCaller(self.channel(peer), self.metrics))
        return caller

    def _traced(self, caller: PeerCaller) -> PeerCaller:
        return caller if self._tracing is None else TracedCaller(caller, self._tracing)

    def add_interceptor(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        """Have an interceptor see the calls that peers make, from now on; the first that was added is outermost.

        Lattica's own services (``/lattica.v1.…``) are left out, so plain Python services are too. One that was added
        before sees the calls once.

        Raises:
            UsageError: It is none.
        """
        self._server.add_interceptor(interceptor)

    def use_tracing(self, tracing: CallTracing) -> None:
        """Make spans, with a `lattica.rpc.otel.Tracing`: of all calls that peers make, and of those of new stubs.

        Also while running. Channels for generated stubs take ``interceptors=tracing.client(peer)``.

        Raises:
            UsageError: Another one is used already.
        """
        if self._tracing is not None:
            if self._tracing is tracing:
                return
            raise UsageError("this node makes spans already; it can use one Tracing")
        self._tracing = tracing
        self._server.add_interceptor(tracing.server)
        self._calls.use_tracing(tracing)
        self._callers = {peer: self._traced(caller) for peer, caller in self._callers.items()}

    async def close(self) -> None:
        """Tell who watches our health, then close all channels; running calls have `DRAIN_S` seconds."""
        self._closed = True
        self.health.shut_down()
        callers = [caller.close(DRAIN_S) for caller in self._callers.values()]
        await asyncio.gather(self._calls.drain(DRAIN_S), *callers)
        await asyncio.gather(*(channel.close(DRAIN_S) for channel in self._channels.values()))
        await self._calls.close()


@contextlib.asynccontextmanager
async def open_rpc(
    server_tls: TlsIdentity,
    path: Path,
    opener: RouteOpener,
    *,
    native: NativeAddress | None = None,
    reflection: bool = False,
    metrics: RpcMetrics = METRICS,
) -> AsyncIterator[Rpc]:
    """The rpc room of one node.

    Args:
        server_tls: The node authority's server identity.
        path: Unix socket for the gRPC server, in a private folder.
        opener: Finds ways to peers.
        native: Where the gRPC server listens itself as well; ``None`` for nowhere.
        reflection: Whether peers may ask which services there are.
        metrics: Where calls are counted.

    Raises:
        PortInUseError: Somebody listens at the native address.
        ConfigError: The native address is not one of this machine's, or the port not allowed.
    """
    serving = open_server(server_tls, path, native=native, reflection=reflection, metrics=metrics)
    async with background_tasks() as tasks, serving as server:
        rpc = Rpc(server, opener, tasks)
        try:
            yield rpc
        finally:
            await rpc.close()
