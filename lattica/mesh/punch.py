"""Punch a TCP connection through the NATs between two peers that can already exchange messages."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from lattica.background import background_tasks
from lattica.errors import NetworkError, PunchFailedError
from lattica.identity import PeerAddress
from lattica.mesh.pipes import describe
from lattica.mesh.preface import LinkRefusedError
from lattica.mesh.punch_driver import SEND_TIMEOUT_S, Hopeless, Opened, PunchDriver, PunchSignal
from lattica.mesh.punch_machine import PROVE_LIMIT_S, Answerer, Initiator
from lattica.mesh.punch_messages import Outcome, Result, encode_punch
from lattica.mesh.stun import Endpoint

logger = logging.getLogger(__name__)

T = TypeVar("T")

__all__ = ["PunchSignal", "answer_punch", "punch", "refuse_punch"]


async def punch(
    signal: PunchSignal,
    servers: Sequence[PeerAddress],
    prove: Callable[[socket.socket, PeerAddress], Awaitable[T | None]],
    *,
    local_host: str = "0.0.0.0",
    attempts: dict[str, str] | None = None,
) -> T:
    """Open a connection to the peer, which runs `answer_punch` at the other end of ``signal``.

    Args:
        signal: Stays the caller's to close.
        servers: STUN servers over TCP; those at IP addresses of the family of ``local_host`` count, the first three
            of them.
        prove: Called with each connected socket, several at one time; its first result wins. It speaks first, and
            returns only when the peer has answered, so that both sides know which socket won. It owns the socket,
            which must be closed when it returns ``None``, raises or is cancelled (closing it twice does no harm). It
            may raise `NetworkError` and `OSError`; `LinkRefusedError` ends the punch.
        local_host: The address to punch from; ``"::"`` for IPv6.
        attempts: Gets what becomes of each server and target while it runs.

    Raises:
        PunchFailedError: With the reasons.
        LinkRefusedError: From ``prove``.
        RemoteProtocolError: The peer does not keep to the protocol.

    It ends by itself: after 8 s if nothing connects, after `PUNCH_LIMIT_S` (40 s) if the peer dawdles. Cancelled, it
    leaves nothing open.
    """
    attempts = {} if attempts is None else attempts
    proofs: _Proofs[T] = _Proofs(prove, attempts)
    machine = Initiator()
    try:
        async with background_tasks() as tasks:
            driver = PunchDriver(machine, signal, servers, local_host, attempts, tasks)
            finish = await driver.run(partial(proofs.hand_over, driver))
    except BaseException:
        proofs.discard()
        raise
    winner = proofs.take()
    if winner is not None:
        return winner
    if proofs.refused is not None:
        raise proofs.refused
    attempts["punch"] = finish.reason
    raise PunchFailedError(attempts)


async def answer_punch(
    signal: PunchSignal,
    servers: Sequence[PeerAddress],
    accept: Callable[[socket.socket, PeerAddress], Awaitable[None]],
    *,
    local_host: str = "0.0.0.0",
) -> None:
    """Take part in a punch that the peer has asked for by opening ``signal``; returns when it is over, however it went.

    To be called at once, before the peer has said anything: meanwhile it learns its own mapping.

    Args:
        signal: Stays the caller's to close.
        servers: As with `punch`.
        accept: Called with each socket on which the peer has spoken, the first byte unread. It owns the socket, and
            may raise `NetworkError` and `OSError`. It has `PROVE_LIMIT_S` seconds after the end of the punch.
        local_host: As with `punch`.

    Raises:
        RemoteProtocolError: The peer does not keep to the protocol.

    Cancelled, it leaves nothing open but what ``accept`` has finished with.
    """
    attempts: dict[str, str] = {}
    accepting: set[asyncio.Task[None]] = set()
    async with background_tasks() as outer:

        async def hand_over(sock: socket.socket, remote: Endpoint) -> None:
            if not await _peer_speaks(sock):
                sock.close()
                return
            task = outer.start(_accept(accept, sock, PeerAddress.tcp(*remote)))
            task.add_done_callback(lambda done: sock.close() if done.cancelled() else None)
            accepting.add(task)

        async with background_tasks() as tasks:
            finish = await PunchDriver(Answerer(), signal, servers, local_host, attempts, tasks).run(hand_over)
        if accepting:
            await asyncio.wait(accepting, timeout=PROVE_LIMIT_S)
    tried = "; ".join(f"{what}: {reason}" for what, reason in attempts.items())
    logger.info(
        "punch answered outcome=%s reason=%s tried=%s", finish.outcome.value, finish.reason or "-", tried or "-"
    )


async def refuse_punch(signal: PunchSignal, reason: str) -> None:
    """Say that we take no part, instead of `answer_punch`; ``reason`` is for the peer. Raises `NetworkError`."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await signal.send(encode_punch(Result(Outcome.REFUSED, reason)))
    except TimeoutError as error:
        raise NetworkError("the punch stream takes no messages") from error


class _Proofs(Generic[T]):
    """Connected sockets of the initiator: the first that is proven wins."""

    def __init__(
        self, prove: Callable[[socket.socket, PeerAddress], Awaitable[T | None]], attempts: dict[str, str]
    ) -> None:
        self.refused: LinkRefusedError | None = None
        self._prove = prove
        self._attempts = attempts
        self._won: list[tuple[T, socket.socket]] = []

    async def hand_over(self, driver: PunchDriver, sock: socket.socket, remote: Endpoint) -> None:
        """See `lattica.mesh.punch_port.HandOver`."""
        address = PeerAddress.tcp(*remote)
        self._attempts[address.text] = "connected, proving"
        try:
            async with asyncio.timeout(PROVE_LIMIT_S):
                result = await self._prove(sock, address)
        except TimeoutError:
            reason, result = f"connected, but not proven within {PROVE_LIMIT_S:.0f} s", None
        except LinkRefusedError as error:
            self.refused, reason, result = error, str(error), None
        except (NetworkError, OSError) as error:
            reason, result = describe(error), None
        else:
            reason = "connected to somebody else" if result is None else "another connection was faster"
        if result is None or self._won:
            sock.close()
            self._attempts[address.text] = reason
            if self.refused is not None:
                driver.post(Hopeless("you take no pipes over this link"))
            return
        self._won.append((result, sock))
        self._attempts.pop(address.text, None)
        driver.post(Opened())

    def take(self) -> T | None:
        """The winner, whose socket is the caller's from now on."""
        return self._won.pop()[0] if self._won else None

    def discard(self) -> None:
        """Close the winner: nobody wants it any more."""
        for _, sock in self._won:
            sock.close()
        self._won.clear()


async def _accept(
    accept: Callable[[socket.socket, PeerAddress], Awaitable[None]], sock: socket.socket, remote: PeerAddress
) -> None:
    try:
        await accept(sock, remote)
    except (NetworkError, OSError) as error:
        logger.info("punched connection dropped remote=%s reason=%s", remote, describe(error))
        sock.close()
    except Exception:  # a fault of ours must not cost the others their punch
        logger.exception("punched connection failed remote=%s", remote)
        sock.close()


async def _peer_speaks(sock: socket.socket) -> bool:
    """Wait until the peer has said something, which stays unread; whether it has, instead of closing."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await readable
    finally:
        loop.remove_reader(sock)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
