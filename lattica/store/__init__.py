"""The replicated store: documents that merge, of signed entries."""

from __future__ import annotations

from lattica.store.containers_host import Container, DocumentHost
from lattica.store.counter import Counter
from lattica.store.replicated_list import ReplicatedList
from lattica.store.replicated_map import OwnMap, Register, ReplicatedMap
from lattica.store.replicated_set import Element, ReplicatedSet
from lattica.store.replicated_text import ReplicatedText
from lattica.store.roots import RootKind, TextRoots, parse_root, root_name
from lattica.store.values import MAX_VALUE_BYTES, Storable, Value

__all__ = [
    "MAX_VALUE_BYTES",
    "Container",
    "Counter",
    "DocumentHost",
    "Element",
    "OwnMap",
    "Register",
    "ReplicatedList",
    "ReplicatedMap",
    "ReplicatedSet",
    "ReplicatedText",
    "RootKind",
    "Storable",
    "TextRoots",
    "Value",
    "parse_root",
    "root_name",
]
