"""The replicated store: documents that merge, of signed entries."""

from __future__ import annotations

from lattica.store.changes import Change, Problem
from lattica.store.containers_host import Container, DocumentHost
from lattica.store.control import Role
from lattica.store.counter import Counter
from lattica.store.description import AuthorInfo
from lattica.store.document import Document
from lattica.store.dump import Json, dump, dump_key, dump_root
from lattica.store.frontier import Frontier
from lattica.store.grpc_link import GrpcPeers
from lattica.store.item_runs import Place
from lattica.store.lease_hold import Lease
from lattica.store.members import Members, MembersChange
from lattica.store.namespace import Genesis, Limits, NamespaceId, Policy
from lattica.store.ports import ReplicaRouting, StorePeers, SyncLink
from lattica.store.presence import Presence
from lattica.store.replicated_list import ReplicatedList
from lattica.store.replicated_map import OwnMap, Register, ReplicatedMap
from lattica.store.replicated_set import Element, ReplicatedSet
from lattica.store.replicated_text import ReplicatedText
from lattica.store.roots import RootKind, TextRoots, parse_root, root_name
from lattica.store.service import StoreServicer, add_store_servicer
from lattica.store.store import ReplicatedStore, open_store
from lattica.store.values import MAX_VALUE_BYTES, Storable, Value

__all__ = [
    "MAX_VALUE_BYTES",
    "AuthorInfo",
    "Change",
    "Container",
    "Counter",
    "Document",
    "DocumentHost",
    "Element",
    "Frontier",
    "Genesis",
    "GrpcPeers",
    "Json",
    "Lease",
    "Limits",
    "Members",
    "MembersChange",
    "NamespaceId",
    "OwnMap",
    "Place",
    "Policy",
    "Presence",
    "Problem",
    "Register",
    "ReplicaRouting",
    "ReplicatedList",
    "ReplicatedMap",
    "ReplicatedSet",
    "ReplicatedStore",
    "ReplicatedText",
    "Role",
    "RootKind",
    "Storable",
    "StorePeers",
    "StoreServicer",
    "SyncLink",
    "TextRoots",
    "Value",
    "add_store_servicer",
    "dump",
    "dump_key",
    "dump_root",
    "open_store",
    "parse_root",
    "root_name",
]
