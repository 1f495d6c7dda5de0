"""Places for calls at a limit: all for one peer while nobody else wants some, and a share for each when others do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattica.rpc.shares import KEPT_S, MAX_WANTING, Gate, PeerLoad


class Peers:
    """Peers that call; ``now`` moves when a test says so."""

    def __init__(self, limit: int, outer: Gate | None = None) -> None:
        self.gate = Gate(limit, outer)
        self.loads = [PeerLoad() for _ in range(4)]
        self.now = 0.0

    def call(self, peer: int) -> bool:
        """Whether a call was begun."""
        if self.gate.refuses(self.loads[peer], self.now):
            return False
        self.gate.enter(self.loads[peer])
        return True

    def calls(self, peer: int, number: int) -> int:
        """How many of so many were."""
        return sum(self.call(peer) for _ in range(number))

    def end(self, peer: int) -> None:
        self.gate.leave(self.loads[peer])

    def held(self, peer: int) -> int:
        return self.loads[peer].held.get(self.gate, 0)


def test_one_peer_may_have_all_places_while_nobody_else_wants_one() -> None:
    peers = Peers(8)
    assert peers.calls(0, 100) == 8
    peers.end(0)
    assert peers.call(0), "its own refusals keep no place"


def test_the_next_place_is_for_the_peer_that_had_less_than_its_share() -> None:
    peers = Peers(8)
    assert peers.calls(0, 8) == 8
    assert not peers.call(1)
    peers.end(0)
    assert peers.calls(0, 100) == 0
    assert peers.call(1)
    peers.end(0)
    assert peers.call(0), "nobody wants more"


def test_as_many_places_are_kept_as_calls_were_refused_and_not_more_than_the_share() -> None:
    for refused, kept in ((2, 2), (50, 4)):
        peers = Peers(8)
        peers.calls(0, 8)
        assert peers.calls(1, refused) == 0
        for _ in range(8):
            peers.end(0)
        assert peers.calls(0, 100) == max(4, 8 - kept)
        assert peers.calls(1, 100) == kept


def test_each_of_several_gets_its_share() -> None:
    peers = Peers(9)
    peers.calls(0, 9)
    for _ in range(200):
        for peer in (0, 1, 2, 0, 0):
            peers.call(peer)
        if peers.held(0):
            peers.end(0)
        for peer in (0, 1, 2):
            peers.call(peer)
    assert [peers.held(peer) for peer in (0, 1, 2)] == [3, 3, 3]


def test_a_place_is_not_kept_for_ever() -> None:
    peers = Peers(2)
    peers.calls(0, 2)
    assert not peers.call(1)
    peers.end(0)
    peers.now = KEPT_S - 0.01
    assert not peers.call(0)
    peers.now = KEPT_S
    assert peers.call(0)
    assert peers.gate.wanted == 0


def test_a_limit_of_one_goes_to_and_fro() -> None:
    peers = Peers(1)
    peers.call(0)
    for holder in (0, 1, 0, 1):
        assert peers.calls(0, 3) + peers.calls(1, 3) == 0
        peers.end(holder)
        assert peers.calls(holder, 3) == 0, "the other one goes first"
        assert peers.call(1 - holder)
    peers.end(0)
    assert peers.call(0), "nobody else wants it"


def test_the_limit_around_others_has_shares_of_its_own() -> None:
    node = Gate(4)
    one, other = Peers(100, node), Peers(100, node)
    other.loads = one.loads
    for method in (one, other):
        for _ in range(2):
            method.gate.enter(one.loads[0])
    assert (one.gate.running, other.gate.running, node.running) == (2, 2, 4)
    assert node.refuses(one.loads[1], 0.0)
    other.end(0)
    assert (other.gate.running, node.running) == (1, 3)
    assert node.refuses(one.loads[0], 0.0)
    assert not node.refuses(one.loads[1], 0.0)


def test_so_many_peers_may_have_places_kept() -> None:
    gate = Gate(10_000)
    greedy = PeerLoad()
    for _ in range(10_000):
        gate.enter(greedy)
    crowd = [PeerLoad() for _ in range(2 * MAX_WANTING)]
    assert all(gate.refuses(load, 0.0) for load in crowd)
    assert gate.wanted == MAX_WANTING


steps = st.lists(st.tuples(st.sampled_from(["call", "end", "wait"]), st.integers(0, 3)), max_size=200)


@given(st.integers(1, 6), steps)
def test_counts_are_right_and_no_place_is_empty_that_nobody_wants(limit: int, steps: list[tuple[str, int]]) -> None:
    peers = Peers(limit)
    for what, peer in steps:
        if what == "wait":
            peers.now += KEPT_S / 2
        elif what == "end":
            if peers.held(peer):
                peers.end(peer)
        else:
            free, wanted = peers.gate.limit - peers.gate.running, peers.gate.wanted
            assert peers.call(peer) or free <= wanted or free == 0
        gate = peers.gate
        assert gate.running == sum(peers.held(one) for one in range(4)) <= limit
        assert gate.wanted == sum(wanted for wanted, _ in gate._wants.values())
        assert gate._last is None or gate.wanted
        assert all(wanted > 0 for wanted, _ in gate._wants.values())
        assert gate._holders == sum(peers.held(one) > 0 for one in range(4))
