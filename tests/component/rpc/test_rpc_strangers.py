"""Who holds no link calls nobody, and whoever bothers the port does so without effect."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import socket
import ssl

import grpc
import pytest
from call_services import Two, count_to, echo, echo_stub, open_two
from grpc.aio import AioRpcError
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica.errors import PeerUnreachableError
from lattica.identity import IdentityKey, NodeAuthority, PeerAddress, PeerId, TlsIdentity
from lattica.identity.authority import LinkKey
from lattica.mesh import listener, pipes
from lattica.mesh.links import Link
from lattica.mesh.pipes import dial_pipe
from lattica.mesh.preface import MAGIC, encode_preface
from lattica.rpc import server
from lattica.rpc.options import SERVER_OPTIONS
from lattica.swarm import transport

STRANGER = IdentityKey.from_seed(bytes(32))
MULTISTREAM = b"\x13/multistream/1.0.0\n"


def certified_by(authority: NodeAuthority, peer: PeerId, trusts: bytes) -> TlsIdentity:
    """A client's side of TLS, certified by ``authority``, that trusts another one."""
    key = LinkKey()
    identity = key.tls_identity(peer, authority.issue_link_certificate(key.public_der, peer), authority.certificate_der)
    return dataclasses.replace(identity, authority=trusts)


async def attempt(rooms: Rooms, credentials: grpc.ChannelCredentials | None) -> AioRpcError:
    """The failure of a call straight to the node's unix socket, as by another program of the same user."""
    label = rooms.peer_id.dns_label
    options = [("grpc.ssl_target_name_override", label), ("grpc.default_authority", label)]
    target = f"unix:{rooms.server}"
    if credentials is None:
        opened = grpc.aio.insecure_channel(target, options=options)
    else:
        opened = grpc.aio.secure_channel(target, credentials, options=options)
    async with opened:
        with pytest.raises(AioRpcError) as caught:
            await echo_stub(opened).Echo(echo("let me in"), timeout=30)
    return caught.value


async def test_a_call_without_tls_is_refused_even_on_the_local_socket() -> None:
    async with open_two() as two:
        assert (await attempt(two.bob, None)).code() is grpc.StatusCode.UNAVAILABLE
        assert two.services.echo.calls == 0


async def test_a_client_without_a_certificate_is_refused() -> None:
    async with open_two() as two:
        trusting = grpc.ssl_channel_credentials(root_certificates=two.bob.mesh.links.authority.server.authority)
        assert (await attempt(two.bob, trusting)).code() is grpc.StatusCode.UNAVAILABLE
        assert two.services.echo.calls == 0


async def test_a_client_that_another_node_certified_is_refused() -> None:
    """Also if that node calls its authority what Bob calls his."""
    async with open_two() as two:
        bob = two.bob.mesh.links.authority
        other = NodeAuthority(STRANGER)
        other._name = bob._name
        other._certificate = other._issue_authority(two.alice.mesh.links.authority._certificate.not_valid_before_utc)
        mine = certified_by(other, STRANGER.peer_id, trusts=bob.server.authority)
        credentials = grpc.ssl_channel_credentials(mine.authority, mine.private_key, mine.certificate)
        assert (await attempt(two.bob, credentials)).code() is grpc.StatusCode.UNAVAILABLE
        assert two.services.echo.calls == 0


async def test_a_servers_own_certificate_is_no_clients() -> None:
    async with open_two() as two:
        own = two.bob.mesh.links.authority.server
        credentials = grpc.ssl_channel_credentials(own.authority, own.private_key, own.certificate)
        assert (await attempt(two.bob, credentials)).code() is grpc.StatusCode.UNAVAILABLE


async def test_the_caller_is_who_the_link_was_granted_to() -> None:
    async with open_two() as two, open_rooms() as carol:
        services_before = two.services.echo.calls
        stub = echo_stub(carol.knows(two.bob))
        assert PeerId((await stub.Echo(echo("x"))).caller) == carol.peer_id
        assert PeerId((await two.echo.Echo(echo("x"))).caller) == two.alice.peer_id
        assert two.services.echo.calls == services_before + 2


def dial(rooms: Rooms) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", rooms.mesh.port))
    sock.setblocking(False)
    return sock


def is_open(sock: socket.socket) -> bool:
    """Reads what has come, since the end comes after it."""
    try:
        while sock.recv(1000):
            pass
        return False
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


async def read_to_end(sock: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            while more := await loop.sock_recv(sock, 4096):
                data += more
    return data


async def test_tls_straight_to_the_port_is_not_answered() -> None:
    async with open_two() as two:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises(OSError):  # noqa: PT011 - a reset or an end, as the kernel likes
            await asyncio.open_connection("127.0.0.1", two.bob.mesh.port, ssl=context)


async def test_a_pipe_of_somebody_elses_link_carries_no_call() -> None:
    """Carol has a link, and so a pipe; she does not have Alice's certificate."""
    async with open_two(native_port=None) as two, open_rooms() as carol:
        await two.echo.Echo(echo("x"))
        await echo_stub(carol.knows(two.bob)).Echo(echo("x"))
        carols = carol.mesh._link_table.get(two.bob.peer_id)
        alices = two.alice.mesh._link_table.get(two.bob.peer_id)
        assert carols is not None
        assert alices is not None
        stolen = dataclasses.replace(carols, ticket=alices.ticket)
        pipe = await dial_pipe(stolen, two.bob.address)  # a ticket seen by whoever reads Alice's traffic
        with pipe.sock:
            await until(lambda: len(two.bob.mesh.paths(two.alice.peer_id)) == 2)
            await asyncio.get_running_loop().sock_sendall(pipe.sock, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))
            assert b"HTTP" not in await read_to_end(pipe.sock)
        await until(lambda: len(two.bob.mesh.paths(two.alice.peer_id)) == 1)
        assert two.services.echo.calls == 2


def link_of(two: Two) -> Link:
    link = two.alice.mesh._link_table.get(two.bob.peer_id)
    assert link is not None
    return link


async def test_a_pipe_on_which_nobody_shakes_hands_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [option for option in SERVER_OPTIONS if option[0] != "grpc.server_handshake_timeout_ms"]
    monkeypatch.setattr(server, "SERVER_OPTIONS", [*kept, ("grpc.server_handshake_timeout_ms", 300)])
    async with open_two(native_port=None) as two:
        await two.echo.Echo(echo("x"), wait_for_ready=True)  # if its handshake takes as long, it is tried again
        pipe = await dial_pipe(link_of(two), two.bob.address)
        with pipe.sock:
            assert await read_to_end(pipe.sock) == b""
        await until(lambda: len(two.bob.mesh.paths(two.alice.peer_id)) == 1)


@pytest.mark.parametrize(
    "said",
    [
        secrets.token_bytes(4096),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        MAGIC + secrets.token_bytes(400),
        MULTISTREAM + b"\x07/noise\n" + secrets.token_bytes(400),
        MULTISTREAM[:10],
    ],
    ids=["random", "half-a-hello", "http", "no-preface", "no-noise", "half-a-header"],
)
async def test_garbage_costs_its_sender_the_connection(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "PREFACE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(transport, "UPGRADE_TIMEOUT_S", 0.3)
    async with open_two() as two:
        for _ in range(3):
            with dial(two.bob) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, said)
                await read_to_end(sock)
        monkeypatch.undo()  # whoever means well has the usual time
        assert (await two.echo.Echo(echo("still there"), timeout=30)).payload == b"still there"


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [b"", MAGIC[:1], MAGIC + b"\x4a" + bytes(20), MULTISTREAM[:1], MULTISTREAM],
    ids=["silent", "one-byte-of-a-preface", "half-a-preface", "one-byte-of-libp2p", "libp2p-without-noise"],
)
async def test_two_hundred_idle_connections_keep_nobody_out(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same address as the real client, who comes last, needs both protocols, and does not wait."""
    monkeypatch.setattr(listener, "FIRST_BYTE_TIMEOUT_S", 1.5)
    monkeypatch.setattr(pipes, "PREFACE_TIMEOUT_S", 1.5)
    monkeypatch.setattr(transport, "UPGRADE_TIMEOUT_S", 1.5)
    async with open_two() as two, contextlib.AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        idle = []
        for _ in range(200):
            sock = stack.enter_context(dial(two.bob))
            if said:
                await loop.sock_sendall(sock, said)
            idle.append(sock)
        await until(lambda: sum(map(is_open, idle)) <= listener.MAX_UNPROVEN_PER_HOST)
        monkeypatch.undo()  # whoever means well has the usual time
        assert (await two.echo.Echo(echo("hello"), timeout=30)).payload == b"hello"
        assert [part.total async for part in two.streams.GetManifest(count_to(10))] == list(range(10))
        await asyncio.gather(*(read_to_end(sock) for sock in idle))


async def test_a_stranger_who_asks_for_links_is_a_peer_like_any_other() -> None:
    """Links prove who calls; who may call what is the service's to decide."""
    async with open_two() as two, open_rooms(key=STRANGER) as carol:
        assert PeerId((await echo_stub(carol.knows(two.bob)).Echo(echo("x"))).caller) == STRANGER.peer_id


async def test_an_impostor_at_the_peers_address_learns_nothing_but_the_token() -> None:
    """It cannot answer the preface, so no TLS is spoken with it."""
    async with open_two() as two:
        await two.echo.Echo(echo("x"))
        heard = asyncio.Event()
        received = b""

        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            received = await reader.read(1000)
            writer.write(bytes(33))
            with contextlib.suppress(ConnectionResetError):
                received += await reader.read(1000)
            writer.close()
            heard.set()

        fake = await asyncio.start_server(impostor, "127.0.0.1", 0)
        async with fake:
            address = PeerAddress.tcp(*fake.sockets[0].getsockname())
            attempts: dict[str, str] = {}
            assert await pipes.dial_first(link_of(two), [address], attempts) is None
            async with asyncio.timeout(30):
                await heard.wait()
        assert "somebody else" in attempts[address.text]
        assert len(received) == len(encode_preface(link_of(two).ticket, bytes(16)))
        assert link_of(two).ticket.secret not in received


async def test_a_peer_id_without_its_key_is_not_reached() -> None:
    """A node that says it is another one fails the handshake."""
    async with open_two() as two, open_rooms() as carol:
        carol.mesh.add_addresses(STRANGER.peer_id, [two.bob.address.with_peer(STRANGER.peer_id)])
        with pytest.raises(PeerUnreachableError, match="another peer answered there"):
            await echo_stub(carol.rpc.channel(STRANGER.peer_id)).Echo(echo("x"), timeout=30)
