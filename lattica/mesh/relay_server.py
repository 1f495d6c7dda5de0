"""The Lattica relay: joins the sockets of two peers that both dial its port, in the kernel. It sees ciphertext only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from google.protobuf.message import DecodeError

from lattica._proto import relay_pb2
from lattica.background import Background
from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh.live_pipes import PipeTable
from lattica.mesh.movers import byte_budget
from lattica.mesh.pipes import PREFACE_TIMEOUT_S, configure, receive_exactly
from lattica.mesh.pump import Pair
from lattica.mesh.relay_limits import LeaseBook, LeaseRefusedError, SpliceLedger, SpliceLimits
from lattica.mesh.relay_metrics import RelayMetrics
from lattica.mesh.relay_session import MAX_RELAY_MESSAGE, ClientLeftError, RelaySession
from lattica.mesh.relay_wire import (
    HEAD_BYTES,
    MintingOffice,
    PrefaceKind,
    RelayRefusedError,
    RelayStatus,
    parse_accept,
    parse_head,
)
from lattica.mesh.token_bucket import TokenBucket
from lattica.shared_gauge import SharedGauge
from lattica.swarm import Swarm

logger = logging.getLogger(__name__)

RELAY_PROTOCOL = "/lattica/relay/1.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCounts:
    """What a relay does and has done.

    Attributes:
        leases: Given out and not over yet.
        waiting: Clients that wait for their target.
        pipes: Joined now.
        joined: Pipes joined so far.
        refused: Connections that were not joined so far, by `RelayMetrics.prefaces` outcome.
        relayed: Bytes so far, both directions together.
    """

    leases: int
    waiting: int
    pipes: int
    joined: int
    refused: Mapping[str, int]
    relayed: int


class RelayServer:
    """Gives out leases and joins pipes. `serve` it, route the relay's first byte to `accept`, `close` it at the end."""

    def __init__(
        self,
        key: IdentityKey,
        swarm: Swarm,
        table: PipeTable,
        tasks: Background,
        *,
        limits: SpliceLimits | None = None,
        metrics: RelayMetrics | None = None,
    ) -> None:
        self.limits = limits or SpliceLimits()
        self._office = MintingOffice(key.seed)
        self._swarm = swarm
        self._table = table
        self._tasks = tasks
        self._metrics = metrics or RelayMetrics()
        self._gauges = [
            SharedGauge(gauge) for gauge in (self._metrics.held_leases, self._metrics.pipes, self._metrics.waiting)
        ]
        self._leases = LeaseBook(self.limits)
        self._ledger = SpliceLedger(self.limits)
        self._waiting: dict[bytes, RelaySession] = {}
        self._pairs: dict[Pair, RelaySession] = {}
        self._budget = None if self.limits.bytes_s is None else byte_budget(self.limits.bytes_s)
        self._budgets: dict[PeerId, TokenBucket] = {}
        self._joined = self._relayed = 0
        self._refused: Counter[str] = Counter()
        self._serving = False

    def serve(self) -> None:
        """Give out leases and join pipes from now on."""
        self._serving = True
        self._swarm.serve_requests(RELAY_PROTOCOL, self._grant, MAX_RELAY_MESSAGE)

    def stop_serving(self) -> None:
        """Give out no leases and join no more pipes; those that are joined, and waiting clients, go on."""
        self._serving = False
        self._swarm.stop_serving(RELAY_PROTOCOL)

    def close(self) -> None:
        """Stop serving, tell those who wait, and close all pipes."""
        self.stop_serving()
        for session in self._waiting.values():
            session.fail(RelayRefusedError(RelayStatus.CLOSING))
        for pair in self._pairs:
            self._table.drop_others(pair)
        for gauge in self._gauges:
            gauge.end()

    def counts(self) -> RelayCounts:
        """What it does and has done."""
        return RelayCounts(
            leases=self._leases.count(time.time()),
            waiting=self._ledger.waiting,
            pipes=self._ledger.pipes,
            joined=self._joined,
            refused=dict(self._refused),
            relayed=self._relayed + sum(pair.sent + pair.received for pair in self._pairs),
        )

    # Leases

    async def _grant(self, peer: PeerId, message: bytes) -> bytes:
        try:
            relay_pb2.LeaseRequest.FromString(message)
        except DecodeError as error:
            self._metrics.leases.labels("malformed").inc()
            raise RemoteProtocolError("malformed lease request", peer) from error
        host = next((info.remote.host for info in self._swarm.connections() if info.peer_id == peer), "")
        now = time.time()
        try:
            expires_at = self._leases.grant(peer, host, now, self._swarm.is_connected)
        except LeaseRefusedError as error:
            logger.info("lease refused peer=%s reason=%s", peer, error)
            self._metrics.leases.labels("refused").inc()
            return relay_pb2.LeaseResponse(refusal=str(error)).SerializeToString()
        self._metrics.leases.labels("granted").inc()
        self._show()
        logger.debug("lease granted peer=%s", peer)
        return relay_pb2.LeaseResponse(
            minting_key=self._office.minting_key(peer, expires_at),
            expires_at=expires_at,
            valid_s=int(expires_at - now),
            max_pipes=self.limits.pipes_per_target,
            max_pipes_per_client=self.limits.pipes_per_client,
            bytes_per_s=self.limits.target_bytes_s or 0,
        ).SerializeToString()

    # Connections to our port

    async def accept(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Route of the listener: a relay preface. Returns when it has proven to be from a lease's peer or client.

        The socket is ours, also when this is cancelled. A client that has to wait for its target does so in the
        background.

        Raises:
            RelayRefusedError: The dialler was told so.
            NetworkError: It broke the protocol.
            TimeoutError: It did not finish its preface in time.
        """
        kind = "unknown"
        try:
            configure(sock)
            async with asyncio.timeout(PREFACE_TIMEOUT_S):
                is_from, length = parse_head(await receive_exactly(sock, HEAD_BYTES))
                kind = is_from.name.lower()
                body = await receive_exactly(sock, length)
            if is_from is PrefaceKind.DIAL:
                self._take_client(sock, remote, body)
            else:
                self._take_target(sock, body)
        except RelayRefusedError as error:
            self._refuse(sock, kind, error)
            raise
        except BaseException as error:
            sock.close()
            if isinstance(error, (NetworkError, OSError)):
                self._count(kind, "malformed")
            raise

    def _take_client(self, sock: socket.socket, remote: PeerAddress, body: bytes) -> None:
        token = self._office.recognise(body, time.time())
        if not self._serving:
            raise RelayRefusedError(RelayStatus.CLOSING)
        if not self._swarm.is_connected(token.target):
            raise RelayRefusedError(RelayStatus.TARGET_GONE)
        session = RelaySession(token, self._ledger.admit(token, remote.host), sock)
        try:
            self._tasks.start(self._serve_client(session)).add_done_callback(partial(self._abandon, session))
        except RuntimeError as error:  # the node is closing
            self._ledger.release(session.place)
            raise RelayRefusedError(RelayStatus.CLOSING) from error
        self._waiting[session.id] = session
        self._show()

    def _take_target(self, sock: socket.socket, body: bytes) -> None:
        name, secret = parse_accept(body)
        session = self._waiting.get(name)
        if session is None or not session.take_target(sock, secret):
            raise RelayRefusedError(RelayStatus.UNKNOWN_SESSION)

    async def _serve_client(self, session: RelaySession) -> None:
        """Have the target come, and join the two."""
        try:
            target = await session.wait_target(self._swarm, self.limits.wait_s)
            for sock in (target, session.client):
                sock.send(bytes((RelayStatus.OK,)))  # the first byte on a connection: it fits
        except RelayRefusedError as error:
            logger.info("pipe not relayed target=%s reason=%s", session.token.target, error)
            self._refuse(session.client, "dial", error)
        except (ClientLeftError, OSError) as error:
            logger.debug("pipe not relayed target=%s reason=%s", session.token.target, error)
            self._count("dial", "client_left")
        except Exception:  # a fault of ours must not cost the node its other tasks
            logger.exception("relaying failed target=%s", session.token.target)
        else:
            self._join(session, target)

    def _join(self, session: RelaySession, target: socket.socket) -> None:
        pair = self._table.join_others(session.client, target, self._ended, self._budgets_of(session))
        self._pairs[pair] = session
        self._ledger.joined(session.place)
        self._joined += 1
        self._metrics.prefaces.labels("dial", "joined").inc()
        self._metrics.prefaces.labels("accept", "joined").inc()
        self._show()
        logger.debug("pipe relayed target=%s client=%s", session.token.target, session.token.client)

    def _budgets_of(self, session: RelaySession) -> list[TokenBucket]:
        target, budgets = session.token.target, [] if self._budget is None else [self._budget]
        if self.limits.target_bytes_s is not None:
            budgets.append(self._budgets.setdefault(target, byte_budget(self.limits.target_bytes_s)))
        return budgets

    def _ended(self, pair: Pair) -> None:
        session = self._pairs.pop(pair)
        self._relayed += pair.sent + pair.received
        self._metrics.bytes.labels("to_target").inc(pair.sent)
        self._metrics.bytes.labels("to_client").inc(pair.received)
        self._release(session)

    def _abandon(self, session: RelaySession, _: asyncio.Task[None]) -> None:
        """The end of a client's waiting; also of a task that is cancelled before its first step and so never runs."""
        self._waiting.pop(session.id, None)
        if session.place.is_waiting:
            session.close()
            self._release(session)

    def _release(self, session: RelaySession) -> None:
        self._ledger.release(session.place)
        if not self._ledger.has_pipes(session.token.target):
            self._budgets.pop(session.token.target, None)
        self._show()

    def _refuse(self, sock: socket.socket, kind: str, error: RelayRefusedError) -> None:
        with contextlib.suppress(OSError):  # it has gone
            sock.send(bytes((error.status,)))
        sock.close()
        self._count(kind, error.status.name.lower())

    def _count(self, kind: str, outcome: str) -> None:
        self._refused[outcome] += 1
        self._metrics.prefaces.labels(kind, outcome).inc()

    def _show(self) -> None:
        values = self._leases.count(time.time()), self._ledger.pipes, self._ledger.waiting
        for gauge, value in zip(self._gauges, values, strict=True):
            gauge.set(value)
