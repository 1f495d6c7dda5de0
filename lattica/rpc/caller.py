"""Who calls: the peer ID that the caller's certificate proves."""

from __future__ import annotations

from typing import Protocol

from lattica.errors import AddressError
from lattica.identity import PeerId

_NAMES = "x509_subject_alternative_name"


class HasAuthContext(Protocol):
    """A gRPC servicer context, of either kind."""

    def auth_context(self) -> dict[str, object]:
        """Properties of the authenticated connection."""


def caller_id(context: HasAuthContext) -> PeerId:
    """The peer that makes the call of this servicer context.

    Raises:
        PermissionError: The connection has no peer's certificate; not possible on a node's own server.
    """
    names = context.auth_context().get(_NAMES, ())
    for name in names if isinstance(names, (list, tuple)) else ():
        try:
            return PeerId.parse(bytes(name).decode())
        except (AddressError, UnicodeDecodeError):
            continue
    raise PermissionError("the caller has shown no peer's certificate")
