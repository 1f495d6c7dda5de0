"""Calls to a peer ID: generated gRPC code unchanged, or plain Python classes as services."""

from lattica.rpc.call_context import CurrentCall, current_call
from lattica.rpc.caller import caller_id
from lattica.rpc.calls import RpcUnreachableError
from lattica.rpc.channel import PeerChannel
from lattica.rpc.health import Health, ServingStatus
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.native_server import NativeAddress
from lattica.rpc.ports import Route, RouteOpener, ServiceRouting
from lattica.rpc.replicas import Replicas, ReplicaSet, open_replicas
from lattica.rpc.rpc import Rpc, open_rpc
from lattica.rpc.service import method, service
from lattica.rpc.stub import CallOptions, options

__all__ = [
    "CallOptions",
    "CurrentCall",
    "Health",
    "NativeAddress",
    "PeerChannel",
    "ReplicaSet",
    "Replicas",
    "Route",
    "RouteOpener",
    "Rpc",
    "RpcMetrics",
    "RpcUnreachableError",
    "ServiceRouting",
    "ServingStatus",
    "caller_id",
    "current_call",
    "method",
    "open_replicas",
    "open_rpc",
    "options",
    "service",
]
