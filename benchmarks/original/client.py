"""The original Lattica (PyPI `lattica` 1.0.21), calling for `benchmarks.rpc`; run by the Python that has it.

Usage: python -I client.py HOST FOLDER SERVER'S_LINE_OF_JSON

Tasks and answers are those of `benchmarks.rpc_load`; imports nothing of this repository.
"""

import json
import os
import queue
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lattica import ConnectionHandler, Lattica, rpc_method, rpc_stream, rpc_stream_iter

MIB = 1 << 20
CALL_LIMIT_S = 30
STREAM_LIMIT_S = 180
CONNECT_LIMIT_S = 20.0
WARM_UP = 0.2


class Bench(ConnectionHandler):  # type: ignore[misc]
    """The methods, for their names."""

    @rpc_method  # type: ignore[untyped-decorator]
    def echo(self, data: bytes) -> bytes: ...  # type: ignore[empty-body]

    @rpc_stream  # type: ignore[untyped-decorator]
    def upload(self, data: bytes) -> int: ...  # type: ignore[empty-body]

    @rpc_stream_iter  # type: ignore[untyped-decorator]
    def download(self, items: int): ...  # type: ignore[no-untyped-def]


class Load:
    """Calls with a window of futures: the oldest is waited for before another call is made."""

    def __init__(self, stub: Any, size: int, in_flight: int) -> None:
        self.latencies: list[float] = []
        self.failed = 0
        self.reason: str | None = None
        self.elapsed = 0.0
        self._stub = stub
        self._payload = b"x" * size
        self._in_flight = in_flight

    def run(self, seconds: float) -> "Load":
        """Call for so many seconds, then wait for the last answers."""
        started = time.perf_counter()
        pending: deque[tuple[float, Any]] = deque()
        while time.perf_counter() < started + seconds:
            if len(pending) >= self._in_flight:
                self._settle(*pending.popleft())
            pending.append((time.perf_counter(), self._call()))
        while pending:
            self._settle(*pending.popleft())
        self.elapsed = time.perf_counter() - started
        return self

    def _call(self) -> Any:
        try:
            return self._stub.echo(self._payload)
        except Exception as error:  # noqa: BLE001 - any failure counts, whatever it is
            return error

    def _settle(self, started: float, future: Any) -> None:
        try:
            if isinstance(future, Exception):
                raise future
            if future.result(CALL_LIMIT_S) != self._payload:
                raise ValueError("a wrong answer")
        except Exception as error:  # noqa: BLE001 - any failure counts, whatever it is
            self.failed += 1
            self.reason = self.reason or f"{type(error).__name__}: {error}"
        else:
            self.latencies.append(time.perf_counter() - started)


def measure(stub: Any, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Do one task."""
    kinds: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
        "rate": echo,
        "latency": echo,
        "upload": upload,
        "download": download,
    }
    return [kinds[task["kind"]](stub, task)]


def echo(stub: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Calls per second, or how long one takes."""
    Load(stub, task["size"], task["in_flight"]).run(task["seconds"] * WARM_UP)
    load = Load(stub, task["size"], task["in_flight"]).run(task["seconds"])
    if task["kind"] == "rate":
        value, unit = len(load.latencies) / load.elapsed, "calls/s"
    else:
        value, unit = 1e6 * statistics.median(load.latencies), "us"
    return {"unit": unit, "value": value, "failed": load.failed, "reason": load.reason}


def upload(stub: Any, task: dict[str, Any]) -> dict[str, Any]:
    """One argument, which the library itself sends in pieces: it has no other request streams."""
    block = bytes(task["items"] * MIB)
    started = time.perf_counter()
    arrived = stub.upload(block).result(STREAM_LIMIT_S)
    return stream(arrived, task["items"], time.perf_counter() - started)


def download(stub: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Items of 1 MiB, as they come."""
    arrived, started = 0, time.perf_counter()
    for item in stub.download(task["items"]):
        arrived += len(item)
    return stream(arrived, task["items"], time.perf_counter() - started)


def stream(arrived: int, items: int, seconds: float) -> dict[str, Any]:
    """What a stream has come to."""
    lost = items - arrived // MIB
    reason = f"{arrived:,} bytes of {items * MIB:,} arrived" if lost else None
    return {"unit": "MB/s", "value": arrived / 1e6 / seconds, "failed": lost, "reason": reason}


def connect(stub: Any) -> None:
    """Return when a call has been answered."""
    deadline = time.monotonic() + CONNECT_LIMIT_S
    while True:
        try:
            stub.echo(b"warm").result(CALL_LIMIT_S)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def read_tasks(tasks: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Take tasks from standard input; at its end the process ends, whatever it does."""
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Connect, then do what is asked."""
    host, folder, up = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # its core logs to standard output
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=read_tasks, args=(tasks,), daemon=True).start()
    node = (
        Lattica.builder()
        .with_mdns(False)
        .with_upnp(False)
        .with_bootstraps([up["address"]])
        .with_listen_addrs([f"/ip4/{host}/tcp/0"])
        .with_key_path(str(folder / "client-key"))
        .with_storage_path(str(folder / "client-blocks"))
        .with_dht_db_path(str(folder / "client-dht"))
        .build()
    )
    stub = Bench(node).get_stub(up["address"].rsplit("/", 1)[1])
    connect(stub)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    while True:
        answer: dict[str, Any]
        try:
            answer = {"values": measure(stub, tasks.get())}
        except Exception as error:  # noqa: BLE001 - the other process has to know, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
