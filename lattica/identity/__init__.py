"""Who we are: keys, peer IDs, signed envelopes, the node's certificate authority."""

from lattica.identity.peer_id import PeerId

__all__ = ["PeerId"]
