"""Programs and functions on hosts: where they run, and that none survives its lab."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from descriptors import open_descriptors

from netlab import CallStillRunningError, CommandError, Host, Lab, Nat, StrayProcessError, open_lab
from netlab.names import start_time
from netlab.probes import local, udp
from netlab.processes import processes_in

pytestmark = pytest.mark.netns

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
DETACHED = f"setsid {sys.executable} -c 'import time; time.sleep(600)' > /dev/null 2>&1 & echo $!"


def started(host: Host, argv: list[str]) -> subprocess.Popen[bytes]:
    """A program that has said on standard output that it is up."""
    process = host.popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_a_program_runs_on_its_host(lab: Lab) -> None:
    alice = lab.host("alice")
    assert str(alice.ipv4) in alice.run(["ip", "address", "show"])
    assert alice.run(["cat"], stdin="hello") == "hello"
    assert alice.run(["pwd"], cwd="/tmp") == "/tmp\n"
    assert alice.run(["env"], env={"LANGUAGE": "none"}).splitlines() == ["LANGUAGE=none"]


def test_a_failing_program_is_an_error_with_its_words(lab: Lab) -> None:
    with pytest.raises(CommandError, match="ended with 3: oh no") as caught:
        lab.host("alice").run(["sh", "-c", "echo oh no >&2; exit 3"])
    assert caught.value.returncode == 3


def test_a_program_that_takes_too_long_is_stopped(lab: Lab) -> None:
    alice = lab.host("alice")
    with pytest.raises(subprocess.TimeoutExpired):
        alice.run(SLEEPER, timeout=0.5)
    assert list(processes_in(Path("/run/netns") / alice.netns)) == []


def test_a_function_runs_on_its_host_and_its_sockets_stay_there(lab: Lab) -> None:
    alice, bob = lab.host("alice", nat=Nat.EIM_EIF), lab.host("bob")

    def listening(address: str) -> socket.socket:
        return socket.create_server((address, 0))

    with alice.call(listening, str(alice.ipv4)) as server:
        assert local(server)[0] == "192.168.1.10"
    with pytest.raises(OSError, match="assign requested address"):
        bob.call(listening, str(alice.ipv4))
    with pytest.raises(OSError, match="assign requested address"):
        listening(str(alice.ipv4))


def test_a_whole_event_loop_runs_on_a_host(lab: Lab) -> None:
    server, alice = lab.host("server"), lab.host("alice", nat=Nat.EIM_APDF)

    async def ask(to: str, port: int) -> bytes:
        reader, writer = await asyncio.open_connection(to, port)
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return answer

    with server.call(socket.create_server, (str(server.ipv4), 0)) as listener:
        listener.settimeout(20.0)
        greeter = threading.Thread(target=lambda: greet(listener))
        greeter.start()
        assert alice.call(asyncio.run, ask(*local(listener))) == b"hello\n"
        greeter.join()


def greet(listener: socket.socket) -> None:
    accepted, _ = listener.accept()
    with accepted:
        accepted.sendall(b"hello\n")


def test_an_error_of_a_function_reaches_its_caller(lab: Lab) -> None:
    def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lab.host("alice").call(fails)


def test_programs_end_with_their_lab_even_stubborn_and_frozen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netlab.namespace.STOP_GRACE", 30.0)
    with open_lab() as lab:
        alice = lab.host("alice")
        plain, frozen = started(alice, SLEEPER), started(alice, SLEEPER)
        frozen.send_signal(signal.SIGSTOP)
        family = started(alice, ["sh", "-c", f"{sys.executable} -c '{SLEEPER[2].replace(chr(39), chr(34))}'; true"])
    assert [process.returncode for process in (plain, frozen, family)] == [-signal.SIGTERM] * 3, "nobody was killed"

    monkeypatch.setattr("netlab.namespace.STOP_GRACE", 0.5)
    with open_lab() as lab:
        stubborn = started(lab.host("alice"), [*SLEEPER[:2], STUBBORN + SLEEPER[2]])
    assert stubborn.returncode == -signal.SIGKILL


def test_a_process_that_escapes_its_group_is_killed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netlab.namespace.STOP_GRACE", 0.5)
    with pytest.raises(StrayProcessError, match=r"time\.sleep") as caught, open_lab() as lab:
        pid = int(lab.host("alice").run(["sh", "-c", DETACHED]))
    assert [stray for stray, _ in caught.value.processes] == [pid]
    assert start_time(pid) is None


def test_words_that_a_dead_program_has_not_read_do_not_disturb_the_end() -> None:
    with open_lab() as lab:
        process = lab.host("alice").popen(["true"], stdin=subprocess.PIPE)
        process.wait(10)
        assert process.stdin is not None
        process.stdin.write(b"too late")
    assert process.stdin.closed


def test_a_call_that_outlives_the_lab_is_told() -> None:
    entered, release = threading.Event(), threading.Event()

    def hangs() -> None:
        entered.set()
        release.wait(30)

    def close_too_early() -> None:
        with open_lab() as lab:
            caller = threading.Thread(target=lab.host("alice").call, args=(hangs,))
            caller.start()
            assert entered.wait(20)

    before = set(threading.enumerate())
    with pytest.raises(CallStillRunningError, match="hangs"):
        close_too_early()
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


def descriptors() -> Counter[str]:
    """What is open, but for what only wakes somebody: other tests' libraries have threads that open such."""
    return Counter(target for target in open_descriptors() if not target.startswith("anon_inode:[event"))


def test_a_lab_leaves_no_threads_and_no_descriptors() -> None:
    def once() -> None:
        with open_lab() as lab:
            alice, bob = lab.host("alice", nat=Nat.EIM_APDF), lab.host("bob")
            alice.run(["true"])
            started(bob, SLEEPER)
            with udp(alice) as client:
                client.sendto(b"x", (str(bob.ipv4), 9))

    once()
    threads, open_before = set(threading.enumerate()), descriptors()
    once()
    assert set(threading.enumerate()) <= threads
    assert not descriptors() - open_before
