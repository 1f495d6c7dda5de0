"""The commands: parse, call, print."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from lattica._version import __version__
from lattica.cli.metrics_server import serving_metrics
from lattica.cli.output import Output, TransferProgress, size_text
from lattica.cli.path_commands import show_paths, watch_paths
from lattica.cli.session import Common, Session, control_errors, open_session, run, wait_for_signal
from lattica.cli.store_commands import store
from lattica.cli.store_files import export, import_, verify
from lattica.config import DEFAULT_PORT

_LEVELS = {0: logging.ERROR, 1: logging.INFO, 2: logging.DEBUG}


_REACHABLE = {
    "public": "by anybody",
    "private": "through relays and hole punching; a NAT or firewall is in the way",
    "unknown": "nobody has told yet",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--home", type=click.Path(path_type=Path), help="Folder for key and store. [env: LATTICA_HOME]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.option("-v", "--verbose", count=True, help="Log to stderr; twice for more.")
@click.version_option(__version__, prog_name="lattica")
@click.pass_context
def main(context: click.Context, home: Path | None, as_json: bool, verbose: int) -> None:
    """Reach peers behind NATs, and move models between them."""
    logging.basicConfig(level=_LEVELS[min(verbose, 2)], format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("multiaddr", "asyncio"):  # they tell of every address that they parse
        logging.getLogger(chatty).setLevel(logging.INFO)
    context.obj = Common(home, Output(as_json=as_json))


main.add_command(store)
for _command in (verify, export, import_):
    store.add_command(_command)


def _network_options(command: Any) -> Any:
    for option in (
        click.option("--host", help="IP address to listen on. [default: 0.0.0.0]"),
        click.option("--port", type=int, help="TCP port; 0: any free one."),
        click.option("--bootstrap", multiple=True, metavar="MULTIADDR", help="Join by this peer; may be repeated."),
    ):
        command = option(command)
    return command


@main.command(name="id")
@click.pass_obj
def show_id(common: Common, /) -> None:
    """Print this node's peer ID; a new key is made if there is none."""
    session = open_session(common)

    async def command() -> None:
        from lattica.identity import load_or_create_key
        from lattica.node import KEY_FILE

        peer_id = load_or_create_key(session.config.home / KEY_FILE).peer_id
        session.output.result({"peer_id": str(peer_id), "home": str(session.config.home)}, str(peer_id))

    run(command())


@main.command()
@_network_options
@click.option("--announce", multiple=True, metavar="MULTIADDR", help="Also reachable here (a forwarded port).")
@click.option("--dht", type=click.Choice(["server", "client"]), help="Answer lookups, or only ask.")
@click.option("--replicate", multiple=True, metavar="NAMESPACE", help="Keep this document; may be repeated.")
@click.option("--metrics", metavar="[HOST:]PORT", help="Serve Prometheus metrics there over HTTP. [host: 127.0.0.1]")
@click.pass_obj
def up(common: Common, /, port: int | None, metrics: str | None, **settings: Any) -> None:
    """Run a node until interrupted."""
    session = open_session(common, port=port, require_bootstrap=False, **settings)
    if port is None and "port" not in session.config.model_fields_set:
        session = open_session(common, port=DEFAULT_PORT, require_bootstrap=False, **settings)

    async def command() -> None:
        from lattica.node import open_node

        with serving_metrics(metrics) as url:
            async with open_node(session.config) as node:
                addresses = [str(address) for address in node.addresses]
                said: dict[str, Any] = {"peer_id": str(node.peer_id), "addresses": addresses}
                lines = [f"peer ID   {node.peer_id}", *(f"listening {address}" for address in addresses)]
                if url is not None:
                    said["metrics"] = url
                    lines.append(f"metrics   {url}")
                session.output.result(said, "\n".join(lines))
                await wait_for_signal()

    run(command())


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="What to call it. [default: its file name]")
@_network_options
@click.pass_obj
def publish(common: Common, /, path: Path, name: str | None, **settings: Any) -> None:
    """Publish a file or folder; print its content ID.

    With a running node it is that node's to serve; otherwise this command serves it until interrupted.
    """
    session = open_session(common, **settings)

    async def command() -> None:
        from lattica._proto import control_pb2

        async with session.any_node() as (control, own):
            with control_errors():
                request = control_pb2.PublishRequest(path=str(path.absolute()), name=name or "")
                result = await _transfer(session, control.Publish(request), "publish")
                status = await control.Status(control_pb2.StatusRequest())
            for warning in result.warnings:
                session.output.note(f"warning: {warning}")
            session.output.result(
                {
                    "cid": result.cid,
                    "path": result.path,
                    "size": result.size,
                    "seconds": round(result.seconds, 3),
                    "warnings": list(result.warnings),
                    "peer_id": status.peer_id,
                    "addresses": list(status.addresses),
                },
                result.cid,
            )
            if own:
                session.output.note("serving until interrupted (Ctrl-C); `lattica up` runs a node for longer")
                await wait_for_signal()

    run(command())


@main.command()
@click.argument("cid")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@_network_options
@click.pass_obj
def fetch(common: Common, /, cid: str, destination: Path, overwrite: bool, **settings: Any) -> None:
    """Get content into a file or folder, verified. Repeat it to go on after an interruption."""
    session = open_session(common, **settings)

    async def command() -> None:
        from lattica._proto import control_pb2
        from lattica.content import Cid

        Cid.parse(cid)  # before a node is started for it
        async with session.any_node() as (control, _):
            request = control_pb2.FetchRequest(cid=cid, destination=str(destination.absolute()), overwrite=overwrite)
            with control_errors():
                result = await _transfer(session, control.Fetch(request), "fetch")
            _print_fetched(session.output, result)

    run(command())


async def _transfer(session: Session, calls: Any, title: str) -> Any:
    result = None
    with TransferProgress(session.output, title) as progress:
        async for step in calls:
            if step.HasField("result"):
                result = step.result
            else:
                progress.update(step.phase, step.done_bytes, step.total_bytes)
    return result


def _print_fetched(output: Output, result: Any) -> None:
    sources: list[dict[str, object]] = [
        {"peer": s.peer_id, "path": s.path, "bytes": s.bytes, "chunks": s.chunks, "dropped": s.dropped}
        for s in result.sources
    ]
    rate = result.size / 1e6 / result.seconds if result.seconds else 0.0
    data: dict[str, object] = {
        "cid": result.cid,
        "path": result.path,
        "size": result.size,
        "seconds": round(result.seconds, 3),
        "reused_bytes": result.reused_bytes,
        "sources": sources,
    }
    if output.as_json:
        output.result(data)
        return
    output.result(data, result.path)
    output.note(f"{size_text(result.size)} in {result.seconds:.2f} s ({rate:.0f} MB/s), verified")
    for source in result.sources:
        dropped = f", dropped: {source.dropped}" if source.dropped else ""
        output.note(f"  {size_text(source.bytes)} from {source.peer_id} ({source.path or 'no path'}{dropped})")
    if result.reused_bytes:
        output.note(f"  {size_text(result.reused_bytes)} were here already")


@main.command()
@click.pass_obj
def peers(common: Common, /) -> None:
    """List the peers that the running node is connected to."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import control_pb2

        async with session.running_node() as control:
            with control_errors():
                answer = await control.Peers(control_pb2.PeersRequest())
        rows: list[dict[str, object]] = [
            {
                "peer_id": peer.peer_id,
                "direction": peer.direction,
                "path": peer.path or "-",
                "agent": peer.agent or "-",
                "addresses": " ".join(peer.addresses),
            }
            for peer in answer.peers
        ]
        session.output.rows(rows, ["peer_id", "direction", "path", "agent", "addresses"], "no peers are connected")

    run(command())


@main.command()
@click.pass_obj
def status(common: Common, /) -> None:
    """Say who and where the running node is, and whom it knows."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import control_pb2

        async with session.running_node() as control:
            with control_errors():
                answer = await control.Status(control_pb2.StatusRequest())
        data: dict[str, object] = {
            "peer_id": answer.peer_id,
            "addresses": list(answer.addresses),
            "version": answer.version,
            "connections": answer.connections,
            "dht_peers": answer.dht_peers,
            "uptime_s": round(answer.uptime_s, 3),
            "reachability": answer.reachability,
            "relays": list(answer.relays),
            "relayed": answer.relayed,
        }
        lines = [
            f"peer ID    {answer.peer_id}",
            *(f"listening  {address}" for address in answer.addresses),
            f"reachable  {_REACHABLE[answer.reachability]}",
            *(f"relay      {peer}" for peer in answer.relays),
            f"peers      {answer.connections} connected, {answer.dht_peers} in the DHT's routing table",
            f"relaying   {answer.relayed} for others",
            f"up         {answer.uptime_s:.0f} s, version {answer.version}",
        ]
        session.output.result(data, "\n".join(lines))

    run(command())


@main.command()
@click.argument("peer", default="")
@click.option("--watch", is_flag=True, help="Print what happens to paths, until interrupted.")
@click.pass_obj
def paths(common: Common, /, peer: str, watch: bool) -> None:
    """Show how bytes travel to PEER, or to every peer, and why not better."""
    session = open_session(common)

    async def command() -> None:
        async with session.running_node() as control:
            with control_errors():
                await (watch_paths if watch else show_paths)(session.output, control, peer)

    run(command())


@main.command()
@click.argument("peer")
@click.option("-c", "--count", default=4, show_default=True, type=click.IntRange(1, 1000), help="Calls.")
@click.option(
    "--interval", default=0.0, metavar="SECONDS", type=click.FloatRange(0, 3600), help="Pause between two. [default: 0]"
)
@_network_options
@click.pass_obj
def ping(common: Common, /, peer: str, count: int, interval: float, **settings: Any) -> None:
    """Call PEER (a peer ID, or a multiaddr that ends in one) over gRPC and print how long it took.

    The first call also finds the peer and opens a path to it.
    """
    session = open_session(common, **settings)

    async def command() -> None:
        from lattica._proto import control_pb2

        request = control_pb2.PingRequest(peer=peer, count=count, interval_s=interval)
        async with session.any_node() as (control, _):
            with control_errors():
                async for reply in control.Ping(request):
                    rtt_ms = reply.rtt_s * 1e3
                    session.output.result(
                        {
                            "peer_id": reply.peer_id,
                            "rtt_ms": round(rtt_ms, 3),
                            "path": reply.path,
                            "elapsed_s": round(reply.elapsed_s, 4),
                        },
                        f"{reply.peer_id}  {rtt_ms:.2f} ms  {reply.path}  after {reply.elapsed_s:.3f} s",
                    )

    run(command())
