"""For tests and benchmarks of what uses documents: nodes' stores over a network in memory.

async with network.open(key_of(1), folder) as one, network.open(key_of(2), folder) as two:
    document = await one.create(policy=Policy.OPEN)
    copy = await two.open(document.namespace)
    await converged([document, copy])
"""

from lattica.store.testing.network import MemoryLink, MemoryNetwork, MemorySide, converged, key_of
from lattica.store.testing.swarm import Traffic, measure_traffic

__all__ = ["MemoryLink", "MemoryNetwork", "MemorySide", "Traffic", "converged", "key_of", "measure_traffic"]
