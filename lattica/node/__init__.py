"""A running node: `open_node` wires the rooms; commands talk to it through the local control API."""

from lattica.node.content import NodeContent
from lattica.node.control import connect_control
from lattica.node.home import KEY_FILE
from lattica.node.node import Node, PeerStatus, Pong, open_node

__all__ = ["KEY_FILE", "Node", "NodeContent", "PeerStatus", "Pong", "connect_control", "open_node"]
