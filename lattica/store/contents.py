"""All that a document holds, whatever its containers are named."""

from __future__ import annotations

from typing import TypeAlias

from lattica.errors import DocumentUpdateError
from lattica.store.containers_host import DocumentHost
from lattica.store.counter import Counter
from lattica.store.replicated_list import ReplicatedList
from lattica.store.replicated_map import OwnMap, Register, ReplicatedMap
from lattica.store.replicated_set import Element, ReplicatedSet
from lattica.store.replicated_text import ReplicatedText
from lattica.store.roots import RootKind, parse_root
from lattica.store.values import Value

Content: TypeAlias = "Value | dict[str, Value] | list[Value] | set[Element]"
"""A mapping's ``dict``, a list's ``list``, a text's ``str``, a counter's sum, a set's ``set``, a register's value."""


def content_of(host: DocumentHost, kind: RootKind, name: str) -> Content:
    """What one container holds: nothing, if nobody has written it. A counter to which nobody has added has ``None``."""
    match kind:
        case RootKind.MAP:
            return ReplicatedMap(host, name).to_dict()
        case RootKind.OWN:
            return dict(OwnMap(host, name))
        case RootKind.LIST:
            return ReplicatedList(host, name).to_list()
        case RootKind.SET:
            return ReplicatedSet(host, name).to_set()
        case RootKind.TEXT:
            return str(ReplicatedText(host, name))
        case RootKind.REGISTER:
            return Register(host, name).get()
        case RootKind.COUNTER:
            counter = Counter(host, name)
            return counter.value if counter.by_author() else None


def state_of(host: DocumentHost) -> dict[str, Content]:
    """What each container holds that holds anything, by root name (``"map:settings"``), sorted."""
    found: dict[str, Content] = {}
    for root in sorted(host.ydoc.keys()):
        try:
            kind, name = parse_root(root)
        except DocumentUpdateError:
            continue  # of another program, in a document that is none of ours
        content = content_of(host, kind, name)
        if content is not None if kind in (RootKind.REGISTER, RootKind.COUNTER) else content:
            found[root] = content
    return found
