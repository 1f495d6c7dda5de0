"""Paths as the control API's messages."""

from __future__ import annotations

import time
from collections.abc import Iterable

from lattica._proto import control_pb2
from lattica.identity import PeerId
from lattica.mesh import Mesh, PathEvent, PipeStatus


def encode_paths(mesh: Mesh, peers: Iterable[PeerId]) -> control_pb2.PathsResponse:
    """The pipes to and from some peers, and why there are no better ones."""
    response = control_pb2.PathsResponse()
    for peer in peers:
        response.pipes.extend(_encode_pipe(peer, pipe) for pipe in mesh.paths(peer))
        response.failed.extend(
            control_pb2.FailedWay(peer_id=str(peer), way=way, reason=reason)
            for way, reason in mesh.path_failures(peer).items()
        )
    return response


def _encode_pipe(peer: PeerId, pipe: PipeStatus) -> control_pb2.Pipe:
    return control_pb2.Pipe(
        peer_id=str(peer),
        path=pipe.path.kind.value if pipe.path else "",
        remote=pipe.path.remote.text if pipe.path else "",
        age_s=time.monotonic() - pipe.since,
        rtt_s=pipe.rtt or 0.0,
        sent_bytes=pipe.sent,
        received_bytes=pipe.received,
        stalled=pipe.is_stalled,
    )


def encode_event(event: PathEvent, started: float) -> control_pb2.PathEvent:
    """An event, for a reader that began at ``started``."""
    return control_pb2.PathEvent(
        peer_id=str(event.peer_id),
        event=event.kind.value,
        path=event.path.kind.value if event.path else "",
        remote=event.path.remote.text if event.path else "",
        reason=event.reason,
        elapsed_s=event.at - started,
        missed=event.missed,
    )
