"""gRPC to a peer ID: mutual TLS, channels that find their peer, the caller's peer ID in the handler."""

from lattica.rpc.caller import caller_id
from lattica.rpc.calls import RpcUnreachableError
from lattica.rpc.channel import PeerChannel
from lattica.rpc.health import Health, ServingStatus
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.ports import Route, RouteOpener
from lattica.rpc.rpc import Rpc, open_rpc

__all__ = [
    "Health",
    "PeerChannel",
    "Route",
    "RouteOpener",
    "Rpc",
    "RpcMetrics",
    "RpcUnreachableError",
    "ServingStatus",
    "caller_id",
    "open_rpc",
]
