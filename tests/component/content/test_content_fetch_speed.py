"""How fast a fetch is over mutual TLS from one provider in another process. Nothing is asserted but that it works.

`python tests/component/content/test_content_fetch_speed.py [MB [runs]]` prints the figures: the whole fetch, and the
part from the first request to the last verified chunk on disk; `--profile` adds a profile of the fetcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import os
import pstats
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import uvloop
from content_peers import Content, ListRouting, StoreProvider

from lattica.content.cid import Cid
from lattica.content.fetch import Fetcher
from lattica.content.fetch_report import FetchProgress
from lattica.content.store import BlockStore
from lattica.identity import IdentityKey, LinkKey, NodeAuthority, PeerId

MIB = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", 4 * MIB), ("grpc.max_send_message_length", 4 * MIB)]


class TlsChannels:
    """The channel to one provider."""

    def __init__(self, peer: PeerId, channel: grpc.aio.Channel) -> None:
        self._peer = peer
        self._channel = channel

    def channel(self, peer: PeerId) -> grpc.aio.Channel:
        assert peer == self._peer
        return self._channel

    def path_kind(self, peer: PeerId) -> str:
        return "lan"

    async def wait_moved(self, peer: PeerId) -> None:
        await asyncio.Event().wait()


def model(size: int) -> Content:
    """A file of distinct chunks of 1 MiB."""
    chunk = os.urandom(MIB)
    data = b"".join(number.to_bytes(8, "big") + chunk[8:] for number in range(-(-size // MIB)))[:size]
    return Content.of({"model.bin": data}, chunk_size=MIB)


async def serve(folder: Path, size: int) -> None:
    """The provider's process: prints where it is, serves until it is terminated."""
    key = IdentityKey.generate()
    authority, link = NodeAuthority(key), LinkKey()
    certificate = authority.issue_link_certificate(link.public_der, key.peer_id)
    client = link.tls_identity(key.peer_id, certificate, authority.certificate_der)
    content = model(size)
    with BlockStore.open(folder) as store:
        content.put_into(store)
        server = grpc.aio.server(options=OPTIONS)
        StoreProvider(store).register(server)
        credentials = grpc.ssl_server_credentials(
            [(authority.server.private_key, authority.server.certificate)],
            root_certificates=authority.server.authority,
            require_client_auth=True,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        fields = {"key": client.private_key, "certificate": client.certificate, "authority": client.authority}
        told = {name: value.decode() for name, value in fields.items()}
        print(json.dumps(told | {"port": port, "peer": str(key.peer_id), "cid": str(content.cid)}), flush=True)
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()
        await server.stop(None)


@contextlib.contextmanager
def provider_process(folder: Path, size: int) -> Iterator[dict[str, str]]:
    command = [sys.executable, __file__, "serve", str(folder), str(size)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def channels_to(provider: dict[str, str]) -> AsyncIterator[TlsChannels]:
    peer = PeerId.parse(provider["peer"])
    credentials = grpc.ssl_channel_credentials(
        provider["authority"].encode(), provider["key"].encode(), provider["certificate"].encode()
    )
    options = [*OPTIONS, ("grpc.ssl_target_name_override", peer.dns_label)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{provider['port']}", credentials, options=options) as channel:
        await channel.channel_ready()
        yield TlsChannels(peer, channel)


async def fetch_once(channels: TlsChannels, provider: dict[str, str], folder: Path) -> tuple[float, float]:
    """One fetch into a new store; MB/s of the whole and of the transfer alone."""
    entered: dict[str, float] = {}

    def note(step: FetchProgress) -> None:
        entered.setdefault(step.phase, time.perf_counter())

    with BlockStore.open(folder / "store") as store:
        fetcher = Fetcher(store, channels, ListRouting([PeerId.parse(provider["peer"])]))
        result = await fetcher.fetch(Cid.parse(provider["cid"]), folder / "got.bin", progress=note)
    return result.size / 1e6 / result.seconds, result.size / 1e6 / (entered["verify"] - entered["chunks"])


async def measure(size: int, runs: int, profile: cProfile.Profile | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder, provider_process(Path(folder) / "provider", size) as provider:
        async with channels_to(provider) as channels:
            speeds = []
            for run in range(runs + 1):  # the first one warms up
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    if profile is not None and run == runs:
                        profile.enable()
                    speeds.append(await fetch_once(channels, provider, Path(own)))
    for name, figures in zip(("whole fetch", "chunks only"), zip(*speeds[1:], strict=True), strict=True):
        figure = f"median {statistics.median(figures):.0f} min {min(figures):.0f} max {max(figures):.0f}"
        print(f"{name}: {figure} MB/s, {size / 1e6:.0f} MB, {runs} runs")


@pytest.mark.slow
async def test_a_large_file_is_fetched_over_mutual_tls_from_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        await measure(90_868_376, 5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        numbers = [float(argument) for argument in sys.argv[1:] if argument != "--profile"]
        megabytes, count = (numbers + [90.868376, 5][len(numbers) :])[:2]
        profile = cProfile.Profile() if "--profile" in sys.argv else None
        uvloop.run(measure(int(megabytes * 1e6), int(count), profile))
        if profile is not None:
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
