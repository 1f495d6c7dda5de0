"""`lattica.sync`: nodes for code without an event loop, in threads and across forks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import lattica.sync
from lattica import NodeConfig, rpc
from lattica.errors import DeadlineExceededError, RemoteError, UsageError


@rpc.service("calculator")
class Calculator:
    def __init__(self) -> None:
        self.closed = threading.Event()

    @rpc.method
    def add(self, a: int, b: int = 1) -> int:
        return a + b

    @rpc.method
    async def divide(self, a: int, b: int) -> float:
        return a / b

    @rpc.method
    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @rpc.method
    async def count(self, to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                yield number
        finally:
            self.closed.set()

    @rpc.method
    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


def config(folder: Path, **changes: Any) -> NodeConfig:
    return NodeConfig(home=folder, host="127.0.0.1", port=0, **changes)


@pytest.fixture(scope="module")
def served() -> Calculator:
    return Calculator()


@pytest.fixture(scope="module")
def stub_with(tmp_path_factory: pytest.TempPathFactory, served: Calculator) -> Iterator[Callable[..., Any]]:
    tmp_path = tmp_path_factory.mktemp("nodes")
    with lattica.sync.open_node(config(tmp_path / "server")) as server:
        server.rpc.serve(served)
        bootstrap = [str(server.addresses[0])]
        with lattica.sync.open_node(config(tmp_path / "client", bootstrap=bootstrap)) as client:
            yield partial(client.rpc.stub, Calculator, server.peer_id)


@pytest.fixture
def stub(stub_with: Callable[..., Any]) -> Any:
    return stub_with(timeout=30.0)


def test_calls_block_and_return_results(stub: Any) -> None:
    assert stub.add(1) == 2
    assert stub.add(1, b=5) == 6
    assert stub.total([1, 2, 3]) == 6
    assert stub.total(iter([4, 5])) == 9
    assert list(stub.count(4)) == [0, 1, 2, 3]


def test_errors_are_the_same_as_with_a_loop(stub: Any, stub_with: Callable[..., Any]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        stub.divide(1, 0)
    assert isinstance(caught.value, RemoteError)
    with pytest.raises(DeadlineExceededError):
        stub_with(timeout=0.2).wait(60.0)


def test_leaving_a_stream_early_ends_it_at_the_peer(stub: Any, served: Calculator) -> None:
    served.closed.clear()
    for number in stub.count(1_000_000):
        if number == 3:
            break
    assert served.closed.wait(30.0)


def test_a_stub_with_other_options(stub: Any) -> None:
    with pytest.raises(DeadlineExceededError):
        lattica.sync.options(stub, timeout=0.2).wait(60.0)
    with pytest.raises(UsageError, match="unknown call option"):
        lattica.sync.options(stub, patience=1)
    with pytest.raises(UsageError, match="is no stub"):
        lattica.sync.options(Calculator())


def test_a_service_is_found_by_its_name(tmp_path: Path) -> None:
    with lattica.sync.open_node(config(tmp_path / "server")) as server:
        server.rpc.serve(Calculator(), name="sums", announce=True)
        bootstrap = [str(server.addresses[0])]
        with lattica.sync.open_node(config(tmp_path / "client", bootstrap=bootstrap)) as client:
            sums = client.rpc.service("sums", Calculator, timeout=20.0)
            assert sums.add(1, b=5) == 6
            assert lattica.sync.options(sums, key="k").add(2) == 3
            assert list(sums.count(3)) == [0, 1, 2]


def test_many_threads_may_call_at_once(stub: Any) -> None:
    results: list[int] = []

    def work() -> None:
        results.extend(stub.add(number) for number in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(list(range(1, 51)) * 8)


def test_a_closed_node_says_so_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with lattica.sync.open_node(config(tmp_path)) as node:
        peer = node.peer_id
        other = node.rpc.stub(Calculator, peer)
    with pytest.raises(UsageError, match="closed"):
        other.add(1)
    assert not [thread for thread in threading.enumerate() if thread not in before and "lattica" in thread.name]


async def test_a_thread_with_a_loop_is_told_to_use_the_other_one() -> None:
    with pytest.raises(UsageError, match="async with"), lattica.sync.open_node():
        pytest.fail("opened")


def test_a_wrong_setting_is_raised_to_who_opens(tmp_path: Path) -> None:
    with pytest.raises(lattica.LatticaError), lattica.sync.open_node(config(tmp_path, bootstrap=["nonsense"])):
        pytest.fail("opened")


FORKS = """
import os, sys
from pathlib import Path
import lattica.sync
from lattica import LatticaError, NodeConfig

def config(name):
    return NodeConfig(home=Path(sys.argv[1]) / name, host="127.0.0.1", port=0)

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except LatticaError as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def open_another():
    with lattica.sync.open_node(config("child")) as node:
        print("opened", node.peer_id != "", flush=True)

child(open_another)
with lattica.sync.open_node(config("parent")) as node:
    child(lambda: node.addresses)
    child(open_another)
    print(len(node.addresses) > 0, flush=True)
"""


@pytest.mark.slow
def test_a_fork_before_opening_works_and_one_after_it_is_refused_at_once(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, str(tmp_path)],
        capture_output=True, text=True, timeout=50, check=False,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "false"},
    )  # fmt: skip
    assert run.stdout.splitlines() == ["opened True", "ForkedError", "ForkedError", "True"], run.stderr


INTERRUPTED = """
import asyncio, signal, sys
from pathlib import Path
import lattica.sync
from lattica import NodeConfig, rpc

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process has inherited

@rpc.service("sleeper")
class Sleeper:
    @rpc.method
    async def sleep(self) -> None:
        print("asleep", flush=True)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled\\n", end="", flush=True)  # in one piece: another thread prints at the same time
            raise

def config(name, **more):
    return NodeConfig(home=Path(sys.argv[1]) / name, host="127.0.0.1", port=0, **more)

with lattica.sync.open_node(config("a")) as a:
    a.rpc.serve(Sleeper())
    with lattica.sync.open_node(config("b", bootstrap=[str(a.addresses[0])])) as b:
        try:
            b.rpc.stub(Sleeper, a.peer_id).sleep()
        except KeyboardInterrupt:
            print("interrupted\\n", end="", flush=True)
"""


def test_an_interrupt_ends_a_call_and_cancels_it_at_the_peer(tmp_path: Path) -> None:
    program = [
        sys.executable,
        "-c",
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + INTERRUPTED,
    ]
    with subprocess.Popen([*program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert sorted(rest.split()) == ["cancelled", "interrupted"]
    assert process.returncode == 0
