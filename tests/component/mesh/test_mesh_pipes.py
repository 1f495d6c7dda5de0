"""Pipes over loopback: dialled and accepted for those who hold the link, and for nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from black_hole import black_hole, refusing_address
from descriptors import count_descriptors
from waiting import until

from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import IdentityKey, PeerAddress, PeerId, TlsIdentity
from lattica.mesh import PathKind, pipes
from lattica.mesh.accepting import accept as accept_connection
from lattica.mesh.links import Link
from lattica.mesh.pipes import OpenPipe, accept_pipe, dial_first, dial_pipe, receive_exactly
from lattica.mesh.preface import MAGIC, LinkRefusedError, PeerBusyError, PipeTicket, TicketOffice, encode_preface

CLIENT, SERVER = (IdentityKey.from_seed(bytes((number,)) * 32).peer_id for number in (1, 2))
Serve = Callable[[socket.socket], Awaitable[None]]


def a_link(ticket: PipeTicket) -> Link:
    nothing = TlsIdentity(private_key=b"", certificate=b"", authority=b"")
    return Link(peer_id=SERVER, tls=nothing, ticket=ticket, candidates=(), expires_at=time.monotonic() + 3600)


OFFICE = TicketOffice(b"server")
LINK = a_link(OFFICE.issue(CLIENT, int(time.time()) + 3600))


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[PeerAddress]:
    """A TCP server whose connections go to ``serve``, one after the other; their errors are the test's."""

    async def accept(server: socket.socket) -> None:
        while True:
            sock, _ = await accept_connection(server)
            with sock:
                await serve(sock)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(accept(server))
            yield PeerAddress.tcp(*server.getsockname())
            accepting.cancel()


class Peer:
    """A server that accepts pipes as a node does; what comes through goes back in upper case."""

    def __init__(self, office: TicketOffice = OFFICE, *, busy: bool = False) -> None:
        self.clients: list[PeerId] = []
        self.refusals: list[Exception] = []
        self._office = office
        self._busy = busy

    async def serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()

        async def connect(peer: PeerId) -> socket.socket:
            if self._busy:
                raise NetworkError("too many")
            self.clients.append(peer)
            return theirs

        with ours, theirs:
            try:
                await accept_pipe(sock, self._office, connect)
            except (NetworkError, TimeoutError) as error:
                self.refusals.append(error)
                return
            while data := await loop.sock_recv(sock, 100):
                await loop.sock_sendall(sock, data.upper())


async def echo(pipe: OpenPipe, data: bytes) -> bytes:
    await asyncio.get_running_loop().sock_sendall(pipe.sock, data)
    return await receive_exactly(pipe.sock, len(data))


async def say(sock: socket.socket, answer: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_recv(sock, 1000)
    await loop.sock_sendall(sock, answer)


async def test_a_pipe_leads_to_the_peer_and_says_how() -> None:
    peer = Peer()
    async with serving(peer.serve) as address:
        pipe = await dial_pipe(LINK, address)
        with pipe.sock:
            assert await echo(pipe, b"hello") == b"HELLO"
    assert peer.clients == [CLIENT]
    assert (pipe.path.peer_id, pipe.path.remote, pipe.path.kind) == (SERVER, address, PathKind.LAN)
    assert pipe.path.rtt > 0


async def test_a_link_that_the_peer_does_not_know_is_refused() -> None:
    peer = Peer(TicketOffice(b"the key of another life"))
    async with serving(peer.serve) as address:
        with pytest.raises(LinkRefusedError):
            await dial_pipe(LINK, address)
    assert [type(error) for error in peer.refusals] == [LinkRefusedError]
    assert peer.clients == []


async def test_a_link_that_has_expired_is_refused() -> None:
    expired = a_link(OFFICE.issue(CLIENT, int(time.time()) - 1))
    async with serving(Peer().serve) as address:
        with pytest.raises(LinkRefusedError):
            await dial_pipe(expired, address)


async def test_a_busy_peer_says_so() -> None:
    async with serving(Peer(busy=True).serve) as address:
        with pytest.raises(PeerBusyError, match="no more pipes"):
            await dial_pipe(LINK, address)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.6 and more than an answer has", "somebody else"),
        (bytes(33), "somebody else"),
        (b"", "ended in the middle"),
        (b"\x00" * 32, "ended in the middle"),
    ],
)
async def test_an_address_that_is_somebody_elses_is_noticed(answer: bytes, said: str) -> None:
    async with serving(lambda sock: say(sock, answer)) as address:
        with pytest.raises(RemoteProtocolError, match=said):
            await dial_pipe(LINK, address)


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "PREFACE_TIMEOUT_S", 0.05)
    async with serving(lambda sock: asyncio.sleep(3600.0)) as address:
        with pytest.raises(NetworkError, match="connected, but no answer"):
            await dial_pipe(LINK, address)


async def test_an_address_that_answers_no_dial_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "CONNECT_TIMEOUT_S", 0.05)
    with black_hole() as address, pytest.raises(NetworkError, match="no answer within"):
        await dial_pipe(LINK, address)


PREFACE = encode_preface(LINK.ticket, bytes(16))


@pytest.mark.parametrize(
    "data",
    [
        MAGIC[:1],
        MAGIC,
        PREFACE[:-1],
        PREFACE[: len(PREFACE) // 2],
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"L" * 300,
        MAGIC + bytes(300),
        MAGIC + b"\x80" + bytes(300),
        PREFACE[:-1] + bytes((PREFACE[-1] ^ 1,)),
    ],
    ids=["one-byte", "magic", "all-but-one", "half", "half-a-hello", "garbage", "no-token", "zeros", "wrong-code"],
)
async def test_what_is_no_preface_of_ours_gets_no_pipe_and_is_closed_in_time(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "PREFACE_TIMEOUT_S", 0.1)
    loop, peer = asyncio.get_running_loop(), Peer()
    async with serving(peer.serve) as address:
        with socket.create_connection((address.host, address.port)) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, data)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while more := await loop.sock_recv(sock, 100):
                    received += more
        assert received in {b"", b"\x01" + bytes(32)}
    assert peer.clients == []
    assert len(peer.refusals) == 1


async def test_bytes_after_the_preface_belong_to_the_pipe() -> None:
    """A client may send its TLS hello along without waiting for the answer."""
    async with serving(Peer().serve) as address:
        with socket.create_connection((address.host, address.port)) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(sock, PREFACE + b"early")
            assert (await receive_exactly(sock, 33 + 5))[33:] == b"EARLY"


async def test_the_first_address_that_proves_to_be_the_peer_wins() -> None:
    attempts: dict[str, str] = {}

    async def serve_late(sock: socket.socket) -> None:
        await until(lambda: "somebody else" in attempts[impostor.text])  # dialled before us
        await Peer().serve(sock)

    with black_hole() as hole, refusing_address() as refusing:
        async with serving(lambda sock: say(sock, bytes(33))) as impostor, serving(serve_late) as real:
            pipe = await dial_first(LINK, [hole, refusing, impostor, real], attempts)
            assert pipe is not None
            with pipe.sock:
                assert pipe.path.remote == real
                assert await echo(pipe, b"x") == b"X"
    assert attempts == {
        hole.text: "no answer yet",
        refusing.text: "connection refused",
        impostor.text: "peer unknown broke the protocol: the address belongs to somebody else",
    }


async def test_another_address_helps_where_one_does_not_know_the_link() -> None:
    """In another LAN the same private address may belong to another node."""
    async with serving(Peer(TicketOffice(b"stranger")).serve) as stranger, serving(Peer().serve) as real:
        pipe = await dial_first(LINK, [stranger, real], {})
        assert pipe is not None
        with pipe.sock:
            assert pipe.path.remote == real


async def test_a_refusal_comes_out_when_no_address_worked() -> None:
    attempts: dict[str, str] = {}
    async with serving(Peer(TicketOffice(b"stranger")).serve) as stranger:
        with pytest.raises(LinkRefusedError):
            await dial_first(LINK, [stranger, PeerAddress.tcp("127.0.0.1", 1)], attempts)
    assert "does not know this link" in attempts[stranger.text]
    assert attempts["/ip4/127.0.0.1/tcp/1"] == "connection refused"


async def test_no_address_is_no_pipe() -> None:
    assert await dial_first(LINK, [], {}) is None


async def test_no_more_addresses_are_dialled_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "MAX_RACE", 3)
    attempts: dict[str, str] = {}
    assert await dial_first(LINK, [PeerAddress.tcp("127.0.0.1", port) for port in range(1, 9)], attempts) is None
    assert len(attempts) == 3


@pytest.mark.parametrize("seconds", [0.0, 0.02])
async def test_a_cancelled_dial_leaves_no_socket(seconds: float) -> None:
    with black_hole() as hole:
        async with serving(lambda sock: asyncio.sleep(3600.0)) as silent:
            before = count_descriptors("socket")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await dial_first(LINK, [silent, hole], {})
            assert count_descriptors("socket") <= before + 1  # the server's end of what was accepted
