"""Identify as a service, in trio: asking new peers, answering them, and telling all when something changes (push).

Source: https://github.com/libp2p/specs/blob/master/identify/README.md
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import trio

from lattica._version import __version__
from lattica.errors import NetworkError, RemoteProtocolError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm.connection import Connection
from lattica.swarm.identify import IDENTIFY, MAX_IDENTIFY, PUSH, PeerInfo, decode_identify, encode_identify
from lattica.swarm.mux import MuxStream

logger = logging.getLogger(__name__)

IDENTIFY_TIMEOUT_S = 15.0
"""Seconds that a peer has to identify itself; it stays connected without."""
PUSH_TIMEOUT_S = 10.0
"""Seconds for one push, in either direction."""
MAX_PUSHING = 16
"""Peers to which we push at one time."""
PUSH_INTERVAL_S = 1.0
"""Seconds between two rounds of ours, which tell only the latest; and between two pushes of a peer; in the long run."""
ROUNDS_AT_ONCE = 4
"""Rounds of ours that may follow each other at once: a node that starts, or comes back, learns in a second that it is
behind a NAT and which relays it has, and can be called as soon as others know. Half of what peers put up with."""
PUSH_BURST = 8
"""Pushes that a peer may send at once; each costs us a signature to check and listeners to call."""
AGENT = f"lattica/{__version__}"


class IdentifyService:
    """What we say of ourselves, and what peers say of themselves."""

    def __init__(
        self,
        key: IdentityKey,
        protocols: Collection[str],
        *,
        peers: Callable[[], Iterable[Connection]],
        on_identified: Callable[[PeerInfo], None],
        on_pushed: Callable[[PeerInfo], None],
    ) -> None:
        """A service.

        Args:
            key: Our identity.
            protocols: What we serve, at any time.
            peers: One open connection of each peer, to push to.
            on_identified: Told what a new connection's peer says.
            on_pushed: Told what a peer says later; what it left out is empty.
        """
        self.addresses: tuple[PeerAddress, ...] = ()
        self._seq = 0
        self._key = key
        self._protocols = protocols
        self._peers = peers
        self._on_identified = on_identified
        self._on_pushed = on_pushed
        self._changed = trio.Event()
        self._next_push: dict[PeerId, float] = {}

    def advertise(self, addresses: Sequence[PeerAddress]) -> None:
        """Say from now on that we listen there, and push it."""
        self.addresses = tuple(addresses)
        self._seq += 1
        self._changed.set()

    def push_soon(self) -> None:
        """Something else that we say of ourselves has changed."""
        self._changed.set()

    def peer_left(self, peer: PeerId) -> None:
        """There is no connection to ``peer`` any more."""
        self._next_push.pop(peer, None)

    async def ask(self, connection: Connection) -> None:
        """Have the peer identify itself; one that breaks the protocol loses the connection."""
        peer = connection.info.peer_id
        try:
            with trio.fail_after(IDENTIFY_TIMEOUT_S):
                stream = await connection.open_stream(IDENTIFY)
                try:
                    message = await stream.read_message(MAX_IDENTIFY)
                finally:
                    await stream.finish()
            if message is None:
                raise StreamError("the stream ended without a message")
            info = decode_identify(peer, message)
        except (StreamError, trio.TooSlowError) as error:
            logger.info("identify failed peer=%s reason=%s", peer, error)
        except RemoteProtocolError as error:
            logger.warning("connection closed peer=%s reason=%s", peer, error)
            connection.close()
        except Exception:  # our fault, and no reason to lose the other connections
            logger.exception("identify failed peer=%s", peer)
        else:
            relayed = connection.info.relay is not None
            self._on_identified(replace(info, observed=None) if relayed else info)

    async def serve(self, stream: MuxStream) -> None:
        """Answer an identify request."""
        await stream.write_message(self._message(stream.remote))

    def _message(self, observed: PeerAddress) -> bytes:
        return encode_identify(
            self._key,
            agent=AGENT,
            protocols=list(self._protocols),
            addresses=self.addresses,
            observed=observed,
            seq=self._seq,
        )

    async def serve_push(self, stream: MuxStream) -> None:
        """Take what a peer says of itself without being asked."""
        now = trio.current_time()
        due = max(self._next_push.get(stream.peer, now), now)
        if due - now > (PUSH_BURST - 1) * PUSH_INTERVAL_S:
            raise RemoteProtocolError(f"more than {PUSH_BURST} pushes in a row", stream.peer)
        self._next_push[stream.peer] = due + PUSH_INTERVAL_S
        try:
            with trio.fail_after(PUSH_TIMEOUT_S):
                message = await stream.read_message(MAX_IDENTIFY)
        except trio.TooSlowError as error:
            raise StreamError(f"a push that took over {PUSH_TIMEOUT_S:.0f} s") from error
        if message is not None:
            info = decode_identify(stream.peer, message)
            self._on_pushed(replace(info, observed=None) if stream.remote.is_circuit else info)

    async def run_pushes(self) -> None:
        """Push to everybody after each change, for ever; changes in long succession are pushed as one."""
        paid = trio.current_time()
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            limiter = trio.CapacityLimiter(MAX_PUSHING)
            async with trio.open_nursery() as nursery:
                for connection in self._peers():
                    nursery.start_soon(self._push, connection, limiter)
            paid = max(paid, trio.current_time()) + PUSH_INTERVAL_S
            await trio.sleep_until(paid - (ROUNDS_AT_ONCE - 1) * PUSH_INTERVAL_S)

    async def _push(self, connection: Connection, limiter: trio.CapacityLimiter) -> None:
        try:
            async with limiter:
                with trio.fail_after(PUSH_TIMEOUT_S):
                    stream = await connection.open_stream(PUSH)
                    try:
                        await stream.write_message(self._message(connection.info.remote))
                    finally:
                        await stream.finish()
        except (NetworkError, trio.TooSlowError) as error:
            logger.debug("push failed peer=%s reason=%s", connection.info.peer_id, error)
        except Exception:  # our fault, and no reason to lose the other connections
            logger.exception("push failed peer=%s", connection.info.peer_id)
