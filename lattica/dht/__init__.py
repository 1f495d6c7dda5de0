"""The DHT: who has this content, and where is this peer. Kademlia in libp2p's wire format."""

from lattica.dht.diversity import IpDiversity
from lattica.dht.limits import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from lattica.dht.metrics import DhtMetrics
from lattica.dht.peer_info import PeerInfo
from lattica.dht.ports import IPFS_KAD, LATTICA_KAD, DhtTransport, RequestHandler
from lattica.dht.service import Dht, DhtMode, open_dht

__all__ = [
    "IPFS_KAD",
    "LATTICA_KAD",
    "MAX_REQUEST_BYTES",
    "MAX_RESPONSE_BYTES",
    "Dht",
    "DhtMetrics",
    "DhtMode",
    "DhtTransport",
    "IpDiversity",
    "PeerInfo",
    "RequestHandler",
    "open_dht",
]
