"""A running node: `open_node` wires the rooms; commands talk to it through the local control API."""

from typing import TYPE_CHECKING

from lattica._lazy import lazy_names

if TYPE_CHECKING:
    from lattica.node.content import NodeContent
    from lattica.node.control_client import connect_control, connect_documents
    from lattica.node.home import DOCUMENTS_FILE, KEY_FILE, hold_home
    from lattica.node.node import Node, PeerStatus, Pong, open_node

__all__ = [
    "DOCUMENTS_FILE",
    "KEY_FILE",
    "Node",
    "NodeContent",
    "PeerStatus",
    "Pong",
    "connect_control",
    "connect_documents",
    "hold_home",
    "open_node",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DOCUMENTS_FILE": "lattica.node.home",
        "KEY_FILE": "lattica.node.home",
        "Node": "lattica.node.node",
        "NodeContent": "lattica.node.content",
        "PeerStatus": "lattica.node.node",
        "Pong": "lattica.node.node",
        "connect_control": "lattica.node.control_client",
        "connect_documents": "lattica.node.control_client",
        "hold_home": "lattica.node.home",
        "open_node": "lattica.node.node",
    },
)
