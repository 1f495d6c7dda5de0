"""A lab is gone at its end, however that comes, and takes nobody else's things with it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab import LabError, Nat, Shape, open_lab, sweep
from netlab.commands import command
from netlab.names import LabId, start_time
from netlab.processes import processes_in

pytestmark = pytest.mark.netns

NAMESPACES = Path("/run/netns")
VICTIM = textwrap.dedent("""
    import sys, time
    from netlab import *
    with open_lab() as lab:
        alice = lab.host("alice", nat=Nat.EIM_APDF, link=Shape(delay=0.01))
        alice.popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("up", flush=True)
        time.sleep(600)
""")


def namespaces_of(pid: int) -> list[str]:
    if not NAMESPACES.is_dir():
        return []
    return [path.name for path in NAMESPACES.iterdir() if path.name.startswith(f"netlab.{pid}.")]


def devices_here() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own with an open lab."""
    # What a shell starts in the background ignores interrupts, and so would this.
    process = subprocess.Popen(["env", "--default-signal=INT", sys.executable, "-c", VICTIM], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()
    sweep()


def test_nothing_is_left_after_a_lab() -> None:
    devices = devices_here()
    with open_lab() as lab:
        lab.host("alice", nat=Nat.EIM_APDF, link=Shape(delay=0.01, rate_mbit=10))
        assert len(namespaces_of(os.getpid())) == 4
        assert devices_here() == devices  # nor was anything outside of it before
    assert namespaces_of(os.getpid()) == []
    assert devices_here() == devices


def test_nothing_is_left_after_an_exception() -> None:
    def fails() -> None:
        with open_lab() as lab:
            lab.host("alice", nat=Nat.EIM_APDF).popen(["sleep", "600"])
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fails()
    assert namespaces_of(os.getpid()) == []


def test_nothing_is_left_of_a_machine_that_could_not_be_finished() -> None:
    with open_lab() as lab:
        with pytest.raises(LabError, match="lan="):
            lab.host("alice", nat=Nat.EIM_APDF, upstream=lab.router("outer", nat=Nat.EIM_APDF))
        with pytest.raises(LabError, match="already"):
            lab.host("outer")
        with pytest.raises(LabError, match="no name for a machine"):
            lab.host("Not/A-Name")
    assert namespaces_of(os.getpid()) == []


def test_nothing_is_left_after_an_interrupt(victim: subprocess.Popen[bytes]) -> None:
    assert namespaces_of(victim.pid)
    victim.send_signal(signal.SIGINT)
    victim.wait(20)
    assert namespaces_of(victim.pid) == []


def test_the_next_lab_sweeps_what_a_killed_one_left(victim: subprocess.Popen[bytes]) -> None:
    names = namespaces_of(victim.pid)
    assert len(names) == 4
    victim.kill()
    victim.wait()
    assert namespaces_of(victim.pid) == names
    orphans = [pid for name in names for pid in processes_in(NAMESPACES / name)]
    assert orphans
    with open_lab():
        assert namespaces_of(victim.pid) == []
    deadline = time.monotonic() + 20
    while any(start_time(pid) for pid in orphans):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sweeping_spares_the_living_and_the_strangers(victim: subprocess.Popen[bytes]) -> None:
    stranger = f"other-{os.getpid()}"
    command(["ip", "netns", "add", stranger])
    try:
        with open_lab() as lab:
            lab.host("alice")
            names = namespaces_of(victim.pid) + namespaces_of(os.getpid()) + [stranger]
            sweep()
            assert all((NAMESPACES / name).exists() for name in names)
            assert victim.poll() is None
    finally:
        command(["ip", "netns", "delete", stranger])


def test_a_process_with_a_dead_labs_number_does_not_keep_its_leftovers() -> None:
    """Process IDs are used again; the start time tells."""
    old = LabId(os.getpid(), 1, 1).namespace("alice")
    command(["ip", "netns", "add", old])
    sweep()
    assert not (NAMESPACES / old).exists()


def test_the_dead_and_the_not_yet_reaped_have_no_start_time() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) is None
    process.wait()
    assert start_time(process.pid) is None
    assert start_time(os.getpid()) is not None


@pytest.mark.parametrize("name", ["netlab", "netlab.1.2", "netlab.x.1.1.alice", "cni-1234", "netlab.1.2.3."])
def test_names_that_no_lab_gave_are_no_labs(name: str) -> None:
    assert LabId.parse(name) is None


def test_a_namespace_name_tells_whose_it_is() -> None:
    lab = LabId(17, 4711, 2)
    assert LabId.parse(lab.namespace("alice-router")) == lab
