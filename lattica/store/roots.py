"""Names of a document's roots: what each holds can be told from its name, as by a reader of foreign updates.

A document is flat: its roots hold values and never other shared types, since Yjs loses data when two authors create a
nested one at the same time. Names may hold ``/`` instead.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

from lattica.errors import DocumentUpdateError, StoreUsageError

MAX_NAME_BYTES: Final = 200
"""Of a root's name in UTF-8, without its kind."""

# Spelled out, not `str.isprintable`: that changes with Python's version of Unicode, and replicas have to agree.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class RootKind(StrEnum):
    """What a root holds: the part of its name before the colon."""

    COUNTER = "counter"
    LIST = "list"
    MAP = "map"
    OWN = "own"
    REGISTER = "register"
    SET = "set"
    TEXT = "text"


def root_name(kind: RootKind, name: str) -> str:
    """The name that the root has in the Yjs document, such as ``"map:settings"``.

    Raises:
        StoreUsageError: The name is empty, too long, or not printable.
    """
    fault = _fault(name)
    if fault:
        raise StoreUsageError(f"no {kind} can be named {name[:80]!r}: {fault}; choose another name")
    return f"{kind}:{name}"


@lru_cache(maxsize=1024)
def parse_root(text: str) -> tuple[RootKind, str]:
    """Kind and name of a root by its name in the Yjs document.

    Raises:
        DocumentUpdateError: `root_name` never gives this.
    """
    kind, _, name = text.partition(":")
    try:
        known = RootKind(kind)
    except ValueError:
        raise DocumentUpdateError(f"a root is named {text[:80]!r}, which tells no kind") from None
    fault = _fault(name)
    if fault:
        raise DocumentUpdateError(f"a root is named {text[:80]!r}: {fault}")
    return known, name


class TextRoots:
    """All the roots that hold text: a `Container` for the reader of updates, which has to know them."""

    __slots__ = ()

    def __contains__(self, root: object) -> bool:
        return isinstance(root, str) and root.startswith(f"{RootKind.TEXT}:")


def _fault(name: str) -> str | None:
    if _UNPRINTABLE.search(name):
        return "it has characters that cannot be printed"
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        return f"names have 1 to {MAX_NAME_BYTES} bytes"
    return None
