"""What every node answers to every peer over gRPC: an echo, to measure the data path with."""

from __future__ import annotations

import grpc

from lattica._proto import peer_pb2, peer_pb2_grpc
from lattica.rpc import caller_id

MAX_ECHO = 1 << 20
"""Bytes of a payload that is echoed."""


class PeerServicer(peer_pb2_grpc.PeerServicer):
    """Serves `lattica.v1.Peer`."""

    async def Echo(  # noqa: N802 - gRPC's spelling
        self,
        request: peer_pb2.EchoRequest,
        context: grpc.aio.ServicerContext[peer_pb2.EchoRequest, peer_pb2.EchoResponse],
    ) -> peer_pb2.EchoResponse:
        """Return the payload, and say who we think the caller is."""
        if len(request.payload) > MAX_ECHO:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"an echo carries {MAX_ECHO} bytes at most")
        return peer_pb2.EchoResponse(payload=request.payload, caller=caller_id(context).raw)
