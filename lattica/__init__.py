"""Lattica: decentralised cross-NAT communication for AI inference and training.

``async with lattica.open_node(lattica.NodeConfig(...)) as node:`` runs a node; see `Node` for what it can do.
"""

from typing import TYPE_CHECKING

from lattica._lazy import lazy_names
from lattica._version import __version__

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content import Cid
    from lattica.errors import LatticaError
    from lattica.identity import PeerAddress, PeerId
    from lattica.node import Node, open_node
    from lattica.rpc import caller_id

__all__ = [
    "Cid",
    "LatticaError",
    "Node",
    "NodeConfig",
    "PeerAddress",
    "PeerId",
    "__version__",
    "caller_id",
    "open_node",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Cid": "lattica.content",
        "LatticaError": "lattica.errors",
        "Node": "lattica.node",
        "NodeConfig": "lattica.config",
        "PeerAddress": "lattica.identity",
        "PeerId": "lattica.identity",
        "caller_id": "lattica.rpc",
        "open_node": "lattica.node",
    },
)
