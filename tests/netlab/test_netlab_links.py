"""What links do to packets, measured with tolerances that hold on a busy machine."""

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from netlab import Host, Lab, LabError, Nat, Shape, open_lab
from netlab.netns import NAMESPACES
from netlab.probes import connection, listen, local, mapped, tcp, udp
from netlab.processes import processes_in

pytestmark = pytest.mark.netns

BUSY = 0.03  # seconds that a busy machine may add to a round trip, the quickest of many


def round_trips(client: socket.socket, server: socket.socket, count: int = 9) -> list[float]:
    """Seconds of each; both ends are run by this thread."""
    times = []
    for _ in range(count):
        began = time.monotonic()
        client.sendto(b"ping", local(server))
        _, source = server.recvfrom(100)
        server.sendto(b"pong", source)
        client.recv(100)
        times.append(time.monotonic() - began)
    return times


def transfer(client_host: Host, server_host: Host, payload: bytes) -> float:
    """Send over TCP and check what arrives; returns megabits per second, from the first byte sent to the last received.

    What is received late, in one go, does not count as quick.
    """
    received = hashlib.sha256()

    def receive(accepted: socket.socket) -> None:
        left = len(payload)
        while left and (data := accepted.recv(1 << 20)):
            received.update(data)
            left -= len(data)

    with listen(server_host) as listener, connection(client := tcp(client_host), listener) as (accepted, _):
        client.settimeout(30)
        accepted.settimeout(30)
        reader = threading.Thread(target=receive, args=(accepted,))
        reader.start()
        began = time.monotonic()
        client.sendall(payload)
        reader.join()
        seconds = time.monotonic() - began
    assert received.digest() == hashlib.sha256(payload).digest()
    return len(payload) * 8 / 1e6 / seconds


def test_a_perfect_link_is_fast_both_in_time_and_in_bytes(lab: Lab) -> None:
    one, two = lab.host("one"), lab.host("two")
    with udp(one) as a, udp(two) as b:
        assert min(round_trips(a, b)) < BUSY
    assert max(transfer(one, two, os.urandom(32 << 20)) for _ in range(3)) > 300


def test_delay_is_added_once_each_way(lab: Lab) -> None:
    near, far = lab.host("near"), lab.host("far", link=Shape(delay=0.05))
    with udp(near) as a, udp(far) as b:
        assert 0.1 <= min(round_trips(a, b)) < 0.1 + BUSY


@pytest.mark.slow
def test_delays_of_links_add_up_and_change_while_in_use(lab: Lab) -> None:
    one, two = lab.host("one", link=Shape(delay=0.02)), lab.host("two")
    with udp(one) as a, udp(two) as b:
        for shape, expected in (
            (Shape(delay=0.03), 0.1),
            (Shape(delay=0.01), 0.06),
            (Shape(), 0.04),
            (Shape(delay=0.02), 0.08),
        ):
            two.link.reshape(shape)
            assert expected <= min(round_trips(a, b)) < expected + BUSY


def test_jitter_spreads_delays_and_keeps_the_order(lab: Lab) -> None:
    one, two = lab.host("one", link=Shape(delay=0.03, jitter=0.02)), lab.host("two")
    with udp(one) as a, udp(two) as b:
        times = round_trips(a, b, 25)
        assert 0.02 <= min(times) < 0.06
        assert max(times) - min(times) > 0.02
        for number in range(200):
            a.sendto(b"%d" % number, local(b))
        assert [int(b.recv(100)) for _ in range(200)] == list(range(200))


def lost(client: socket.socket, server: socket.socket, count: int) -> int:
    """How many of so many datagrams do not arrive; the last is told by sending it until it does."""
    arrived = 0
    for batch in range(count // 100):
        end = b"end %d" % batch  # one that is late must not end the next batch
        for _ in range(100):
            client.sendto(b"counted", local(server))
        while True:
            client.sendto(end, local(server))
            server.settimeout(0.2)
            try:
                while (data := server.recv(100)) != end:
                    arrived += data == b"counted"
            except TimeoutError:
                continue
            break
    return count - arrived


def test_a_share_of_the_packets_is_lost(lab: Lab) -> None:
    one, two = lab.host("one", link=Shape(loss=0.2)), lab.host("two")
    with udp(one) as a, udp(two) as b:
        assert 0.15 < lost(a, b, 2000) / 2000 < 0.25  # five standard deviations each way
        one.link.reshape(Shape())
        assert lost(a, b, 500) == 0


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_tcp_survives_loss_and_is_slowed_by_it(lab: Lab, ipv6: bool) -> None:
    """Single segments are lost out of the large frames that the kernel hands over."""
    one = lab.host("one", link=Shape(loss=0.02, delay=0.005), ipv4=not ipv6, ipv6=ipv6)
    two = lab.host("two", ipv4=not ipv6, ipv6=ipv6)
    payload = os.urandom(2 << 20)
    with listen(two, ipv6=ipv6) as listener, connection(client := tcp(one, ipv6=ipv6), listener) as (accepted, _):
        assert exchange(client, accepted, payload) == payload
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        retransmitted = int.from_bytes(info[100:104], "little")  # tcpi_total_retrans
        segments = len(payload) / 1448
        assert 0.005 * segments < retransmitted < 0.1 * segments


def exchange(sender: socket.socket, receiver: socket.socket, payload: bytes) -> bytes:
    arrived = bytearray()

    def receive() -> None:
        while len(arrived) < len(payload) and (data := receiver.recv(1 << 20)):
            arrived.extend(data)

    sender.settimeout(30)
    receiver.settimeout(30)
    reader = threading.Thread(target=receive)
    reader.start()
    sender.sendall(payload)
    reader.join()
    return bytes(arrived)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "used"),
    [
        pytest.param(Shape(rate_mbit=20), 0.7, id="low"),
        pytest.param(Shape(rate_mbit=200, delay=0.005), 0.4, id="high, far"),  # a busy machine cannot do much more
        pytest.param(Shape(rate_mbit=20, delay=0.01), 0.7, id="low, far", marks=pytest.mark.slow),
    ],
)
def test_a_rate_is_kept_and_used(lab: Lab, shape: Shape, used: float) -> None:
    one, two = lab.host("one", link=shape), lab.host("two")
    assert shape.rate_mbit is not None
    payload = os.urandom(round(shape.rate_mbit * 1e6 / 8 * 0.8))
    for sender, receiver in ((one, two), (two, one)):
        shares = [transfer(sender, receiver, payload) / shape.rate_mbit for _ in range(3)]
        assert max(shares) < 1.02
        assert max(shares) > used, "the best one: others may meet a pause of the machine"


@pytest.mark.parametrize("shape", [Shape(), Shape(delay=0.001)], ids=["near", "far"])
def test_a_cut_link_is_silent_and_works_again_when_mended(lab: Lab, shape: Shape) -> None:
    server, alice = lab.host("server"), lab.host("alice", nat=Nat.EIM_APDF, link=shape)
    with udp(server) as receiver, udp(alice) as client:
        source = mapped(client, receiver)
        alice.access.down()
        client.sendto(b"lost", local(receiver))
        receiver.sendto(b"lost", source)
        alice.access.up()
        receiver.sendto(b"found", source)
        client.sendto(b"found", local(receiver))
        assert (client.recv(100), receiver.recv(100)) == (b"found", b"found")


def test_a_link_whose_delay_line_died_is_told_at_the_end() -> None:
    def lose_it() -> None:
        with open_lab() as lab:
            link = lab.host("alice", link=Shape(delay=0.001)).link
            (pid,) = processes_in(NAMESPACES / link_namespace())
            os.kill(pid, signal.SIGKILL)
            assert "alice" in repr(link)

    with pytest.raises(LabError, match="ended with -9"):
        lose_it()


def link_namespace() -> str:
    names = [path.name for path in NAMESPACES.iterdir() if path.name.startswith(f"netlab.{os.getpid()}.")]
    (name,) = [name for name in names if name.endswith("._links")]
    return name


def test_a_connection_outlives_a_cut(lab: Lab) -> None:
    server, alice = lab.host("server"), lab.host("alice", link=Shape(delay=0.001))
    with listen(server) as listener, connection(client := tcp(alice), listener) as (accepted, _):
        alice.access.down()
        client.sendall(b"sent while cut")
        alice.access.up()
        assert accepted.recv(100) == b"sent while cut"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Shape(loss=1.5),
        lambda: Shape(delay=0.01, jitter=0.02),
        lambda: Shape(delay=-1.0),
        lambda: Shape(rate_mbit=0),
        lambda: Shape(queue=0),
    ],
)
def test_an_impossible_shape_is_refused(wrong: Callable[[], Shape]) -> None:
    with pytest.raises(ValueError, match=r"loss|jitter|rate"):
        wrong()
