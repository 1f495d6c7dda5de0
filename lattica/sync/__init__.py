"""Lattica without an event loop: ``with lattica.sync.open_node(...) as node:``, usable from any thread."""

from lattica.sync.node import SyncContent, SyncNode, SyncRpc, open_node, options

__all__ = ["SyncContent", "SyncNode", "SyncRpc", "open_node", "options"]
