"""Who we are and where: keys, peer IDs, addresses, signed envelopes, the node's certificate authority."""

from lattica.identity.addresses import PeerAddress
from lattica.identity.authority import LinkKey, NodeAuthority, TlsIdentity
from lattica.identity.envelope import (
    PeerRecord,
    SealedPayload,
    peek,
    seal,
    seal_peer_record,
    unseal,
    unseal_peer_record,
)
from lattica.identity.keys import IdentityKey, load_or_create_key
from lattica.identity.peer_id import PeerId

__all__ = [
    "IdentityKey",
    "LinkKey",
    "NodeAuthority",
    "PeerAddress",
    "PeerId",
    "PeerRecord",
    "SealedPayload",
    "TlsIdentity",
    "load_or_create_key",
    "peek",
    "seal",
    "seal_peer_record",
    "unseal",
    "unseal_peer_record",
]
