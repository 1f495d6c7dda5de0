"""What a document holds, as JSON can say it: for people and for other programs, not for restoring."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import TypeAlias

from lattica.errors import DocumentError, DocumentUpdateError, StoreUsageError
from lattica.store.contents import content_of
from lattica.store.document import Document
from lattica.store.roots import RootKind, parse_root

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What `json.dumps` takes."""


def parse_root_argument(text: str) -> tuple[RootKind, str]:
    """Kind and name of a root that somebody has typed.

    Raises:
        StoreUsageError: It is none.
    """
    try:
        return parse_root(text)
    except DocumentUpdateError as error:
        kinds = ", ".join(RootKind)
        raise StoreUsageError(f"no container is named {text[:80]!r}: say KIND:NAME, with a kind of {kinds}") from error


def dump(document: Document) -> dict[str, Json]:
    """All containers that hold something, by root name, sorted."""
    return {root: to_json(content) for root, content in document.state().items()}


def dump_root(document: Document, root: str) -> Json:
    """What one container holds; a counter's is its sum, or ``None`` if nobody has added to it.

    Raises:
        StoreUsageError: There are no containers of this name.
    """
    return to_json(content_of(document, *parse_root_argument(root)))


def dump_key(document: Document, root: str, key: str) -> Json:
    """One entry of a container with keys: maps, and by author's peer ID those where each has its own.

    Raises:
        StoreUsageError: This container has no keys.
        DocumentError: It does not have this key.
    """
    kind, name = parse_root_argument(root)
    holders: dict[RootKind, Mapping[str, object]] = {RootKind.MAP: document.map(name), RootKind.OWN: document.own(name)}
    if kind is RootKind.COUNTER:
        holders[kind] = document.counter(name).by_author()
    if kind not in holders:
        raise StoreUsageError(f"a {kind} has no keys; leave the key out")
    if key not in holders[kind]:
        raise DocumentError(f"{root} has no key {key!r}")
    return to_json(holders[kind][key])


def to_json(value: object) -> Json:
    """A value of a document; what JSON does not have is ``{"$bytes": base64}`` or ``{"$float": "nan"}``."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, set):
        return sorted((to_json(one) for one in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [to_json(one) for one in value]
    if isinstance(value, dict):
        return {str(key): to_json(one) for key, one in value.items()}
    return value if isinstance(value, (bool, int, float, str)) else None
