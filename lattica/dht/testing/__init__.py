"""Fakes for tests of the DHT and of what uses it: a network in memory, and an event loop whose time jumps.

@in_virtual_time
async def test_a_provider_is_found(network: MemoryNetwork) -> None:
async with network.node() as first, network.node(bootstrap=first.peer_id) as second:
await second.dht.provide(key)
await asyncio.sleep(24 * 3600)
assert await first.providers(key) == [second.peer.info]
"""

from lattica.dht.testing.memory_network import MemoryNetwork, MemoryNode, MemoryPeer, MemoryTransport
from lattica.dht.testing.virtual_time import VirtualTimeLoop, in_virtual_time, run_in_virtual_time

__all__ = [
    "MemoryNetwork",
    "MemoryNode",
    "MemoryPeer",
    "MemoryTransport",
    "VirtualTimeLoop",
    "in_virtual_time",
    "run_in_virtual_time",
]
