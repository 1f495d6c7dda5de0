"""libp2p in its own thread, behind an asyncio face: the control plane. The only room that imports libp2p or trio."""

from lattica.swarm.connection import ConnectionInfo, Direction
from lattica.swarm.identify import PeerInfo
from lattica.swarm.relay_client import Reservation
from lattica.swarm.relay_table import RelayCounters, RelayLimits
from lattica.swarm.relay_wire import HOP
from lattica.swarm.stream import Stream
from lattica.swarm.swarm import RequestHandler, SocketHandler, StreamHandler, Swarm, open_swarm

__all__ = [
    "HOP",
    "ConnectionInfo",
    "Direction",
    "PeerInfo",
    "RelayCounters",
    "RelayLimits",
    "RequestHandler",
    "Reservation",
    "SocketHandler",
    "Stream",
    "StreamHandler",
    "Swarm",
    "open_swarm",
]
