"""`lattica paths`: how bytes travel, now and from now on."""

from __future__ import annotations

from typing import Any

from lattica.cli.output import Output, size_text


async def show_paths(output: Output, control: Any, peer: str) -> None:
    """Print the pipes to and from a peer, or all, and what was tried in vain."""
    from lattica._proto import control_pb2

    answer = await control.Paths(control_pb2.PathsRequest(peer=peer))
    rows: list[dict[str, object]] = [
        {
            "peer_id": pipe.peer_id,
            "path": pipe.path or "inbound",
            "rtt_ms": round(pipe.rtt_s * 1e3, 2) if pipe.rtt_s else "-",
            "age_s": round(pipe.age_s, 1),
            "sent": pipe.sent_bytes if output.as_json else size_text(pipe.sent_bytes),
            "received": pipe.received_bytes if output.as_json else size_text(pipe.received_bytes),
            "remote": pipe.remote or "-",
            "state": "stalled" if pipe.stalled else "up",
        }
        for pipe in answer.pipes
    ]
    columns = ["peer_id", "path", "rtt_ms", "age_s", "sent", "received", "remote", "state"]
    output.rows(rows, columns, "no pipe is open")
    for way in answer.failed:
        if output.as_json:
            output.result({"peer_id": way.peer_id, "failed": way.way, "reason": way.reason})
        else:
            output.note(f"not by {way.way}: {way.reason}")


async def watch_paths(output: Output, control: Any, peer: str) -> None:
    """Print events until interrupted."""
    from lattica._proto import control_pb2

    async for event in control.WatchPaths(control_pb2.WatchPathsRequest(peer=peer)):
        if event.missed:
            output.note(f"{event.missed} events were missed")
        output.result(
            {
                "peer_id": event.peer_id,
                "event": event.event,
                "path": event.path,
                "remote": event.remote,
                "reason": event.reason,
                "elapsed_s": round(event.elapsed_s, 4),
            },
            f"{event.elapsed_s:9.3f} s  {event.peer_id}  {event.event:9}  "
            f"{event.path} {event.remote} {event.reason}".rstrip(),
        )
