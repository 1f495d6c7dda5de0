"""The main job: a real model from one peer to others, found by DHT, streamed over gRPC, verified.

Usage: python examples/main_job.py FILE

Starts a few nodes, each a process of its own with its own home, and drives them with the `lattica` command as a user
would: a bootstrap node; a publisher; a first fetcher that knows only the bootstrap address and the content ID; a second
one that pulls from both; then the publisher is killed, and a third one still gets everything. Every copy is compared
with the original by SHA-256 and opened with the `safetensors` library. Exit status 1 with the reason if anything
differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COMMAND_TIMEOUT_S = 120
LATTICA = [sys.executable, "-m", "lattica", "--json"]


class DemoError(Exception):
    """Something was not as it should be."""


class NodeProcess:
    """A `lattica up` process."""

    def __init__(self, name: str, home: Path, bootstrap: str | None = None) -> None:
        self.name = name
        self._home = home
        join = ["--bootstrap", bootstrap] if bootstrap else []
        command = [*LATTICA, "--home", str(home), "up", "--host", "127.0.0.1", "--port", "0", *join]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise DemoError(f"the {name} node did not start")
        up = json.loads(line)
        self.peer_id: str = up["peer_id"]
        self.address: str = up["addresses"][0]

    def lattica(self, *arguments: str) -> dict[str, Any]:
        """Run a command against this node; its last line of JSON."""
        command = [*LATTICA, "--home", str(self._home), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        if done.returncode:
            raise DemoError(f"`lattica {' '.join(arguments)}` on {self.name}: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=15)
        if self._process.poll() is None:
            self.kill()


class Demo:
    """The nodes of one run and what they found."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._sha256 = sha256(model)
        self._nodes: list[NodeProcess] = []
        self._table = Table(box=None, pad_edge=False)
        for column in ("who", "from whom", "path", "seconds", "MB/s", "verified"):
            self._table.add_column(column, justify="right" if column in {"seconds", "MB/s"} else "left")

    def run(self) -> str:
        """All steps; the summary."""
        bootstrap = self._start("bootstrap")
        publisher = self._start("publisher", bootstrap.address)
        published = publisher.lattica("publish", str(self._model))
        for warning in published["warnings"]:
            raise DemoError(f"publishing warned: {warning}")
        cid, size = published["cid"], published["size"]
        self._row("publisher", "its disk", "-", published["seconds"], size, "-")

        first = self._fetch("fetcher 1", cid, bootstrap, {publisher})
        second = self._fetch("fetcher 2", cid, bootstrap, {publisher, first})
        publisher.kill()
        self._fetch("fetcher 3", cid, bootstrap, {first, second})
        return f"{size / 1e6:.1f} MB to 3 peers, the last after the publisher was killed, all verified ({cid})"

    def _start(self, name: str, bootstrap: str | None = None) -> NodeProcess:
        node = NodeProcess(name, self._folder / name.replace(" ", "-"), bootstrap)
        self._nodes.append(node)
        return node

    def _fetch(self, name: str, cid: str, bootstrap: NodeProcess, providers: set[NodeProcess]) -> NodeProcess:
        """A new node that fetches, and must get something from each of `providers` and nothing from others."""
        node = self._start(name, bootstrap.address)
        copy = self._folder / f"{name}.copy".replace(" ", "-")
        result = node.lattica("fetch", cid, str(copy))
        names = {provider.peer_id: provider.name for provider in providers}
        used = {source["peer"]: source for source in result["sources"] if source["bytes"]}
        if set(used) != set(names):
            raise DemoError(f"{name} fetched from {sorted(used)}, not from each of {sorted(names.values())}")
        paths = {source["path"] for source in used.values()}
        if not paths <= {"lan", "direct"}:
            raise DemoError(f"{name} used the paths {sorted(paths)}, not only lan and direct ones")
        self._verify(name, copy)
        whom = ", ".join(f"{names[peer]} {100 * source['bytes'] // result['size']}%" for peer, source in used.items())
        self._row(name, whom, ", ".join(sorted(paths)), result["seconds"], result["size"], "SHA-256, safetensors")
        return node

    def _verify(self, name: str, copy: Path) -> None:
        if sha256(copy) != self._sha256:
            raise DemoError(f"the copy of {name} differs from the original")
        if tensor_names(copy) != tensor_names(self._model):
            raise DemoError(f"the copy of {name} has other tensors than the original")

    def _row(self, who: str, whom: str, path: str, seconds: float, size: int, verified: str) -> None:
        self._table.add_row(who, whom, path, f"{seconds:.2f}", f"{size / 1e6 / seconds:.0f}", verified)

    def print_table(self) -> None:
        """What was done so far."""
        Console(width=120).print(self._table)

    def stop(self) -> None:
        """End all nodes."""
        for node in reversed(self._nodes):
            node.stop()


def sha256(path: Path) -> str:
    """The file's SHA-256 digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_names(path: Path) -> list[str]:
    """The names of a safetensors file's tensors, as the `safetensors` library reads them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return sorted(tensors.keys())
    except SafetensorError as error:
        raise DemoError(f"the safetensors library does not open {path.name}: {error}") from error


@contextlib.contextmanager
def open_demo(model: Path) -> Iterator[Demo]:
    """A demo whose processes and folders are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="lattica-demo-") as folder:
        demo = Demo(model, Path(folder))
        try:
            yield demo
        finally:
            demo.stop()


def main() -> int:
    """Run the main job; the exit status."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        print("usage: python examples/main_job.py MODEL.safetensors", file=sys.stderr)
        return 2
    with open_demo(Path(sys.argv[1]).absolute()) as demo:
        try:
            summary = demo.run()
        except (DemoError, subprocess.TimeoutExpired) as error:
            demo.print_table()
            print(f"demo failed: {error}", file=sys.stderr)
            return 1
        demo.print_table()
    print(f"demo ok: {summary}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
