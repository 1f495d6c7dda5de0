"""A foreign peer: py-libp2p's own host, in a process of its own. Talks JSON lines on its standard output.

``pylibp2p_peer.py listen`` says where it listens and serves until its standard input ends.
``pylibp2p_peer.py dial ADDRESS`` connects, pings, asks, and says what it learned.
"""

from __future__ import annotations

import json
import logging
import sys

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.io.utils import read_exactly
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

ECHO = TProtocol("/test/echo/1")
NOTHING = TProtocol("/test/nothing/1")


def say(**fields: object) -> None:
    """One line for the test that started us."""
    print(json.dumps(fields), flush=True)


def make_host() -> IHost:
    """As FACTS.md says: Noise and yamux only."""
    key = create_new_key_pair()
    noise = Noise(key, noise_privkey=create_new_x25519_key_pair().private_key)
    return new_host(key_pair=key, muxer_opt={TProtocol(YAMUX): Yamux}, sec_opt={NOISE: noise})


async def echo(stream: INetStream) -> None:
    """One message of up to 127 bytes with a varint length before it, back as it came."""
    length = await read_exactly(stream, 1)
    await stream.write(length + await read_exactly(stream, length[0]))
    await stream.close()


async def listen(host: IHost) -> None:
    """Serve until the standard input ends."""
    host.set_stream_handler(ECHO, echo)
    say(address=str(host.get_addrs()[0]))
    await trio.to_thread.run_sync(sys.stdin.read)


async def dial(host: IHost, address: str) -> None:
    """Connect to ``address``, ping, ask, and wait until the peer has identified itself."""
    info = info_from_p2p_addr(Multiaddr(address))
    await host.connect(info)
    (rtt_ms,) = await PingService(host).ping(info.peer_id, ping_amt=1)
    stream = await host.new_stream(info.peer_id, [NOTHING, ECHO])
    await stream.write(b"\x05hello")
    answer = await read_exactly(stream, 6)
    await stream.close()
    store = host.get_peerstore()
    while ECHO not in store.get_protocols(info.peer_id):
        await trio.sleep(0.01)
    say(
        rtt_ms=rtt_ms,
        answer=answer.decode(),
        protocols=list(store.get_protocols(info.peer_id)),
        addresses=[str(one) for one in store.addrs(info.peer_id)],
        peer_id=str(host.get_id()),
    )
    await trio.to_thread.run_sync(sys.stdin.read)


async def main() -> None:
    """What the command line says."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    host = make_host()
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        with trio.fail_after(240):
            await (listen(host) if sys.argv[1] == "listen" else dial(host, sys.argv[2]))


if __name__ == "__main__":
    trio.run(main)
