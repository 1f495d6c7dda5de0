"""What observations make us believe of ourselves."""

from __future__ import annotations

from lattica.identity import PeerId
from lattica.mesh.reachability import ENOUGH_DIALBACKS, MAX_OBSERVERS, ReachabilityMachine

OWN_PRIVATE, OWN_PUBLIC, NAT = "192.168.1.5", "11.0.0.2", "12.0.0.2"


def peer(number: int) -> PeerId:
    return PeerId(bytes((0x12, 0x20)) + number.to_bytes(32))


def verdict(node: ReachabilityMachine) -> str:
    return node.state.value


def machine() -> ReachabilityMachine:
    return ReachabilityMachine(announced=False)


def test_nobody_has_told_us_anything_yet() -> None:
    assert verdict(machine()) == "unknown"


def test_the_operators_word_counts_for_more_than_anything_seen() -> None:
    told = ReachabilityMachine(announced=True)
    assert verdict(told) == "public"
    told.observed(peer(1), NAT, [OWN_PRIVATE])
    assert verdict(told) == "public"


def test_an_address_that_is_not_ours_is_a_nats() -> None:
    node = machine()
    assert not node.observed(peer(1), NAT, [OWN_PRIVATE]), "nobody need dial us back"
    assert verdict(node) == "private"
    assert node.public_hosts == {NAT}


def test_a_peer_on_this_machine_sees_no_nat() -> None:
    """Whatever interfaces we have: none of them is named 127.0.0.1 to others."""
    node = machine()
    assert node.observed(peer(1), "127.0.0.1", [OWN_PRIVATE])
    assert verdict(node) == "unknown"


def test_our_own_address_is_only_ours_to_be_dialled_at_when_somebody_has() -> None:
    node = machine()
    assert node.observed(peer(1), OWN_PUBLIC, [OWN_PUBLIC])
    assert verdict(node) == "unknown"
    node.dialled_back(peer(1), success=True)
    assert verdict(node) == "public"
    assert not node.observed(peer(2), OWN_PUBLIC, [OWN_PUBLIC]), "one proof is enough"


def test_a_firewall_is_found_by_those_that_cannot_dial_us() -> None:
    node = machine()
    for number in range(ENOUGH_DIALBACKS):
        assert node.observed(peer(number), OWN_PUBLIC, [OWN_PUBLIC])
        node.dialled_back(peer(number), success=False)
    assert verdict(node) == "private"
    assert not node.observed(peer(99), OWN_PUBLIC, [OWN_PUBLIC])


def test_one_peer_that_could_dial_us_outweighs_those_that_could_not() -> None:
    node = machine()
    for number, success in enumerate((False, True, False)):
        node.observed(peer(number), OWN_PUBLIC, [OWN_PUBLIC])
        node.dialled_back(peer(number), success=success)
    assert verdict(node) == "public"


def test_a_neighbours_view_counts_for_less_than_the_worlds() -> None:
    """A neighbour in the LAN sees our own address, and can dial it."""
    node = machine()
    node.observed(peer(1), OWN_PRIVATE, [OWN_PRIVATE])
    node.dialled_back(peer(1), success=True)
    assert verdict(node) == "public", "as far as this network goes"
    node.observed(peer(2), NAT, [OWN_PRIVATE])
    assert verdict(node) == "private"


def test_one_liar_does_not_make_a_public_node_private() -> None:
    node = machine()
    for number in (1, 2):
        node.observed(peer(number), OWN_PUBLIC, [OWN_PUBLIC])
    node.dialled_back(peer(1), success=True)
    node.observed(peer(3), NAT, [OWN_PUBLIC])
    assert verdict(node) == "public"


def test_a_stranger_at_our_door_proves_that_it_can_be_found() -> None:
    node = machine()
    node.dialled_by_stranger(OWN_PRIVATE)
    assert verdict(node) == "unknown", "it may live next door"
    node.dialled_by_stranger(OWN_PUBLIC)
    assert verdict(node) == "public"


def test_an_observer_counts_once_and_keeps_its_result() -> None:
    node = machine()
    node.observed(peer(1), OWN_PUBLIC, [OWN_PUBLIC])
    node.dialled_back(peer(1), success=True)
    assert not node.observed(peer(1), OWN_PUBLIC, [OWN_PUBLIC])
    assert verdict(node) == "public"


def test_observers_are_bounded() -> None:
    node = machine()
    for number in range(MAX_OBSERVERS * 2):
        node.observed(peer(number), f"11.0.{number}.2", [])
    assert len(node.public_hosts) == MAX_OBSERVERS


def test_another_network_is_judged_anew() -> None:
    node = machine()
    node.observed(peer(1), NAT, [OWN_PRIVATE])
    node.network_changed()
    assert verdict(node) == "unknown"
    node.dialled_back(peer(1), success=True)
    assert verdict(node) == "unknown", "an answer from before says nothing"
