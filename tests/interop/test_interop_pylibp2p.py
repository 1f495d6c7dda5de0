"""py-libp2p's own host and our swarm, over the wire: ping, identify, a protocol; and its envelopes and ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pylibp2p_peer
import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.envelope import consume_envelope, seal_record
from libp2p.peer.id import ID
from libp2p.peer.peer_record import PeerRecord as ForeignRecord
from multiaddr import Multiaddr
from swarm_pairs import listening

from lattica.errors import StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId, seal_peer_record, unseal_peer_record
from lattica.swarm import PeerInfo, open_swarm

ECHO = str(pylibp2p_peer.ECHO)


@contextlib.asynccontextmanager
async def foreign_peer(*arguments: str) -> AsyncIterator[dict[str, Any]]:
    """A py-libp2p host in a process of its own; yields the line that it says."""
    program = [sys.executable, str(Path(pylibp2p_peer.__file__)), *arguments]
    process = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(40):
            line = await process.stdout.readline()
        yield json.loads(line)
    finally:
        process.stdin.close()
        await process.stdout.read()
        assert await process.wait() == 0


async def echo(peer: PeerId, message: bytes) -> bytes:
    return message


async def test_a_foreign_host_dials_us() -> None:
    async with open_swarm(IdentityKey.generate()) as swarm, listening(swarm) as address:
        swarm.serve_requests(ECHO, echo, 100)
        said: asyncio.Queue[PeerInfo] = asyncio.Queue()
        swarm.subscribe(identified=said.put_nowait)
        async with foreign_peer("dial", str(address)) as learned:
            info = await said.get()
            assert learned["answer"] == "\x05hello"
            assert learned["rtt_ms"] >= 0
            assert {ECHO, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= set(learned["protocols"])
            assert address.text in {one.split("/p2p/")[0] for one in learned["addresses"]}
            assert str(info.peer_id) == learned["peer_id"]
            assert info.agent.startswith("py-libp2p/")
            assert swarm.is_connected(info.peer_id)
            await swarm.ping(info.peer_id)


async def test_we_dial_a_foreign_host() -> None:
    async with open_swarm(IdentityKey.generate()) as swarm:
        said: asyncio.Queue[PeerInfo] = asyncio.Queue()
        swarm.subscribe(identified=said.put_nowait)
        async with foreign_peer("listen") as listener:
            address = PeerAddress.parse(listener["address"])
            assert address.peer_id is not None
            await swarm.connect(address.peer_id, [address])
            info = await said.get()
            assert (info.peer_id, info.agent[:10]) == (address.peer_id, "py-libp2p/")
            assert {ECHO, "/ipfs/ping/1.0.0"} <= info.protocols
            assert address in info.addresses
            assert info.observed is not None
            assert info.observed.host == "127.0.0.1"
            await swarm.ping(address.peer_id)
            answers = await asyncio.gather(
                *(swarm.request(address.peer_id, ECHO, b"%d" % number, 100) for number in range(50))
            )
            assert answers == [b"%d" % number for number in range(50)]
            with pytest.raises(StreamError, match="does not serve"):
                await swarm.request(address.peer_id, "/test/nothing/1", b"x" * 500, 100)
            await swarm.ping(address.peer_id)


def test_its_peer_records_are_read_by_us() -> None:
    key = create_new_key_pair()
    peer = ID.from_pubkey(key.public_key)
    address = Multiaddr("/ip4/192.0.2.1/tcp/4001")
    sealed = seal_record(ForeignRecord(peer, [address], 7), key.private_key).marshal_envelope()
    record = unseal_peer_record(sealed)
    assert (record.peer_id.raw, record.seq, record.addresses) == (peer.to_bytes(), 7, (address.to_bytes(),))


def test_our_peer_records_are_read_by_it() -> None:
    key = IdentityKey.generate()
    address = PeerAddress.parse("/ip4/192.0.2.1/tcp/4001")
    _, record = consume_envelope(seal_peer_record(key, 7, (address.to_bytes(),)), "libp2p-peer-record")
    assert (record.peer_id.to_bytes(), record.seq) == (key.peer_id.raw, 7)
    assert [str(one) for one in record.addrs] == [address.text]
