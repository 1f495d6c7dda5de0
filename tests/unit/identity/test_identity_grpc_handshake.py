"""Decision D3 as a whole, in gRPC's own TLS: each side proves its peer ID, and a stranger does not get in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from lattica.identity import IdentityKey, LinkKey, NodeAuthority, PeerId, TlsIdentity

WHO_AM_I = "/test.Identity/WhoAmI"

SERVER = IdentityKey.from_seed(b"s" * 32)
CLIENT = IdentityKey.from_seed(b"c" * 32)
OTHER = IdentityKey.from_seed(b"o" * 32)


class WhoAmI(grpc.GenericRpcHandler):
    """Answers each call with the peer ID that the caller's certificate names."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        (name,) = context.auth_context()["x509_subject_alternative_name"]
        return str(PeerId.parse(name.decode())).encode()


@contextlib.asynccontextmanager
async def serving(socket: Path, identity: TlsIdentity) -> AsyncIterator[None]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((WhoAmI(),))
    credentials = grpc.ssl_server_credentials(
        [(identity.private_key, identity.certificate)], identity.authority, require_client_auth=True
    )
    server.add_secure_port(f"unix:{socket}", credentials)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def ask(socket: Path, identity: TlsIdentity, server: PeerId) -> str:
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.private_key, identity.certificate)
    options = [("grpc.ssl_target_name_override", server.dns_label)]
    async with grpc.aio.secure_channel(f"unix:{socket}", credentials, options) as channel:
        call: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(WHO_AM_I)
        return (await call(b"", timeout=20)).decode()


def certified(key: LinkKey, authority: NodeAuthority, client: PeerId) -> TlsIdentity:
    """The two messages of `/lattica/link/1.0.0`: a public key one way, two certificates back."""
    certificate = authority.issue_link_certificate(key.public_der, client)
    return key.tls_identity(authority.peer_id, certificate, authority.certificate_der)


async def test_the_server_reads_the_clients_peer_id_from_its_certificate(tmp_path: Path) -> None:
    authority, socket = NodeAuthority(SERVER), tmp_path / "grpc"
    async with serving(socket, authority.server):
        clients = {key.peer_id: certified(LinkKey(), authority, key.peer_id) for key in (CLIENT, OTHER)}
        answers = await asyncio.gather(*(ask(socket, identity, SERVER.peer_id) for identity in clients.values()))
    assert answers == [str(peer_id) for peer_id in clients]


async def test_a_client_certified_before_a_restart_is_still_welcome(tmp_path: Path) -> None:
    identity = certified(LinkKey(), NodeAuthority(SERVER), CLIENT.peer_id)
    async with serving(tmp_path / "grpc", NodeAuthority(SERVER).server):
        assert await ask(tmp_path / "grpc", identity, SERVER.peer_id) == str(CLIENT.peer_id)


async def refused(socket: Path, identity: TlsIdentity, server: PeerId) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(socket, identity, server)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_certified_by_another_node_is_refused(tmp_path: Path) -> None:
    """The stranger trusts the right server, so that it is the server that refuses."""
    authority, strangers = NodeAuthority(SERVER), NodeAuthority(OTHER)
    stranger = certified(LinkKey(), strangers, CLIENT.peer_id)
    identity = TlsIdentity(
        private_key=stranger.private_key, certificate=stranger.certificate, authority=authority.server.authority
    )
    async with serving(tmp_path / "grpc", authority.server):
        await refused(tmp_path / "grpc", identity, SERVER.peer_id)


async def test_a_client_without_a_certificate_is_refused(tmp_path: Path) -> None:
    authority, socket = NodeAuthority(SERVER), tmp_path / "grpc"
    credentials = grpc.ssl_channel_credentials(authority.server.authority)
    options = [("grpc.ssl_target_name_override", SERVER.peer_id.dns_label)]
    async with (
        serving(socket, authority.server),
        grpc.aio.secure_channel(f"unix:{socket}", credentials, options) as channel,
    ):
        call: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(WHO_AM_I)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_another_node_in_the_servers_place_is_refused(tmp_path: Path) -> None:
    identity = certified(LinkKey(), NodeAuthority(SERVER), CLIENT.peer_id)
    async with serving(tmp_path / "grpc", NodeAuthority(OTHER).server):
        await refused(tmp_path / "grpc", identity, SERVER.peer_id)


async def test_a_client_of_the_same_authority_cannot_play_the_server(tmp_path: Path) -> None:
    """A link certificate is for clients: its holder cannot answer others as the node, nor under its own name."""
    authority = NodeAuthority(SERVER)
    victim = certified(LinkKey(), authority, CLIENT.peer_id)
    rogue = certified(LinkKey(), authority, OTHER.peer_id)
    async with serving(tmp_path / "grpc", rogue):
        await refused(tmp_path / "grpc", victim, SERVER.peer_id)
        await refused(tmp_path / "grpc", victim, OTHER.peer_id)
