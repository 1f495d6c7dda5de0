"""Who calls: the peer ID that the caller's certificate proves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from lattica.errors import AddressError
from lattica.identity import PeerId

_NAMES = "x509_subject_alternative_name"


class HasAuthContext(Protocol):
    """A gRPC servicer context, of either kind."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Properties of the authenticated connection."""


def caller_id(context: HasAuthContext) -> PeerId:
    """The peer that makes the call of this servicer context.

    Raises:
        PermissionError: The connection has no peer's certificate; not possible on a node's own server.
    """
    names = context.auth_context().get(_NAMES, ())
    for name in names:
        try:
            return PeerId.parse(name.decode())
        except (AddressError, UnicodeDecodeError):
            continue
    raise PermissionError("the caller has shown no peer's certificate")
