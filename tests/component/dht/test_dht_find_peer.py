"""Finding a peer through the DHT."""

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractAsyncContextManager

import pytest

from lattica.dht import DhtMode, PeerInfo
from lattica.dht.limits import K
from lattica.dht.messages import Message, decode_request, encode
from lattica.dht.testing import MemoryNetwork, MemoryNode, in_virtual_time
from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId


def client_of(network: MemoryNetwork, server: MemoryNode) -> AbstractAsyncContextManager[MemoryNode]:
    return network.node(mode=DhtMode.CLIENT, bootstrap=server.peer_id)


@in_virtual_time
async def test_any_node_finds_any_other(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        rng = random.Random(1)
        for _ in range(30):
            asker, wanted = rng.sample(running, 2)
            assert await asker.dht.find_peer(wanted.peer_id) == wanted.peer.info


@in_virtual_time
async def test_a_peer_is_found_over_nodes_that_the_asker_never_met(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running, client_of(network, running[0]) as asker:
        wanted = running[17]
        assert wanted.peer_id not in network.connections_of(asker.peer_id)
        assert await asker.dht.find_peer(wanted.peer_id) == wanted.peer.info


@in_virtual_time
async def test_a_node_finds_itself_without_asking(network: MemoryNetwork) -> None:
    async with network.node() as node:
        assert await node.dht.find_peer(node.peer_id) == node.peer.info


@in_virtual_time
async def test_a_client_is_found_through_the_servers_it_is_connected_to(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running, client_of(network, running[0]) as client:
        await client.dht.bootstrap()
        await asyncio.sleep(1)
        stranger = next(n for n in running if n.peer_id not in network.connections_of(client.peer_id))
        before = network.requests
        assert await stranger.dht.find_peer(client.peer_id) == client.peer.info
        assert network.requests - before < K / 2, "being connected is enough"


@in_virtual_time
async def test_a_connected_peer_is_found_without_asking(network: MemoryNetwork) -> None:
    async with network.nodes(12) as running, client_of(network, running[0]) as client:
        before = network.requests
        assert await running[0].dht.find_peer(client.peer_id) == client.peer.info
        assert network.requests == before


@in_virtual_time
async def test_a_peer_that_nobody_knows_is_unreachable_and_the_error_says_who_was_asked(network: MemoryNetwork) -> None:
    async with network.nodes(10) as running:
        with pytest.raises(PeerUnreachableError, match="asked 9 nodes, 9 answered, none knows an address"):
            await running[3].dht.find_peer(PeerId(b"\x12\x20" + b"?" * 32))


@in_virtual_time
async def test_with_no_peer_known_the_error_says_so(network: MemoryNetwork) -> None:
    async with network.node() as node:
        with pytest.raises(PeerUnreachableError, match="no other node is known yet"):
            await node.dht.find_peer(PeerId(b"\x12\x20" + b"?" * 32))


@in_virtual_time
async def test_a_liar_cannot_hide_where_a_peer_is(network: MemoryNetwork) -> None:
    """It names a wrong address for whoever is looked for; the others know better, and the peer itself best."""
    async with network.nodes(30) as running, client_of(network, running[3]) as asker:
        wanted, liar = running[2], running[3]
        network.connect(asker.peer_id, running[4].peer_id)

        async def lie(sender: PeerId, data: bytes) -> bytes:
            request = decode_request(data, sender)
            wrong = tuple(PeerInfo(peer.peer_id, (b"wrong",)) for peer in (wanted.peer.info, liar.peer.info))
            return encode(Message(type=request.type, key=request.key, closer_peers=wrong))

        liar.peer.handler = lie
        found = await asker.dht.find_peer(wanted.peer_id)
        assert found.addresses[0] == wanted.peer.info.addresses[0]


@in_virtual_time
async def test_what_a_peer_says_of_itself_counts(network: MemoryNetwork) -> None:
    """Others know one address of it, itself knows two."""
    async with network.nodes(12) as running, client_of(network, running[0]) as asker:
        wanted = running[5]
        both = PeerInfo(wanted.peer_id, (*wanted.peer.info.addresses, b"another"))

        async def name_oneself(sender: PeerId, data: bytes) -> bytes:
            return encode(Message(type=decode_request(data, sender).type, closer_peers=(both,)))

        wanted.peer.handler = name_oneself
        assert await asker.dht.find_peer(wanted.peer_id) == both
