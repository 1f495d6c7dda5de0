"""Lattica without an event loop: ``with lattica.sync.open_node(...) as node:``, usable from any thread."""

from typing import TYPE_CHECKING

from lattica._lazy import lazy_names
from lattica.sync.node import SyncContent, SyncNode, SyncRpc, open_node, options

if TYPE_CHECKING:
    from lattica.sync.store import SyncDocument, SyncStore

__all__ = ["SyncContent", "SyncDocument", "SyncNode", "SyncRpc", "SyncStore", "open_node", "options"]

__getattr__ = lazy_names(__name__, {"SyncDocument": "lattica.sync.store", "SyncStore": "lattica.sync.store"})
