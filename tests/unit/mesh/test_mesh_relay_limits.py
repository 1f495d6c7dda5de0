"""The relay's books: nothing above a limit, nothing counted for ever."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.identity import IdentityKey, PeerId
from lattica.mesh.relay_limits import LeaseBook, LeaseRefusedError, Place, SpliceLedger, SpliceLimits, network_of
from lattica.mesh.relay_wire import RelayRefusedError, RelayStatus, RelayToken

PEERS = [IdentityKey.from_seed(bytes((number,)) * 32).peer_id for number in range(1, 6)]
HOSTS = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
LIMITS = SpliceLimits(
    pipes=12, pipes_per_target=6, pipes_per_client=2, pipes_per_host=5, waiting=8, waiting_per_target=4
)


def a_token(target: PeerId, client: PeerId) -> RelayToken:
    return RelayToken(target=target, client=client, expires_at=0, lease_expires_at=0, nonce=b"")


def status_of(ledger: SpliceLedger, target: int, client: int, host: int) -> RelayStatus | None:
    try:
        ledger.admit(a_token(PEERS[target], PEERS[client]), HOSTS[host])
    except RelayRefusedError as error:
        return error.status
    return None


steps = st.lists(
    st.tuples(st.sampled_from(["admit", "join", "release"]), *(st.integers(min_value=0, max_value=4),) * 3),
    max_size=80,
)


@given(steps)
def test_no_history_exceeds_a_limit_and_when_all_have_gone_nothing_is_counted(
    history: list[tuple[str, int, int, int]],
) -> None:
    ledger = SpliceLedger(LIMITS)
    places: list[Place] = []
    for step, target, client, host in history:
        if step == "admit":
            with contextlib.suppress(RelayRefusedError):
                places.append(ledger.admit(a_token(PEERS[target], PEERS[client]), HOSTS[host]))
        elif step == "join" and any(place.is_waiting for place in places):
            ledger.joined([place for place in places if place.is_waiting][target % sum(p.is_waiting for p in places)])
        elif step == "release" and places:
            ledger.release(places.pop(target % len(places)))
        waiting = [place for place in places if place.is_waiting]
        assert (ledger.waiting, ledger.pipes) == (len(waiting), len(places) - len(waiting))
        assert len(places) <= LIMITS.pipes
        assert len(waiting) <= LIMITS.waiting
        for peer in PEERS:
            mine = [place for place in places if place.target == peer]
            assert len(mine) <= LIMITS.pipes_per_target
            assert sum(place.is_waiting for place in mine) <= LIMITS.waiting_per_target
            assert all(sum(p.client == other for p in mine) <= LIMITS.pipes_per_client for other in PEERS)
            assert ledger.has_pipes(peer) is bool(mine)
        for host_ in HOSTS:
            assert sum(place.network == network_of(host_) for place in places) <= LIMITS.pipes_per_host
    for place in places:
        ledger.release(place)
    assert ledger.is_empty


def test_each_limit_says_which_it_is() -> None:
    ledger = SpliceLedger(LIMITS)
    assert [status_of(ledger, 0, 0, 0) for _ in range(3)] == [None, None, RelayStatus.CLIENT_OVER_LIMIT]
    assert [status_of(ledger, 0, 1, 0) for _ in range(2)] == [None, None]
    assert status_of(ledger, 0, 2, 0) is RelayStatus.TARGET_OVER_LIMIT  # four wait for it
    assert [status_of(ledger, 1, 0, 0), status_of(ledger, 1, 1, 0)] == [None, RelayStatus.HOST_OVER_LIMIT]
    assert [status_of(ledger, 1, client, 1) for client in (1, 2, 3)] == [None, None, None]
    assert status_of(ledger, 2, 0, 2) is RelayStatus.RELAY_FULL  # eight wait


def test_a_client_that_a_hostile_target_names_keeps_its_places_at_others() -> None:
    ledger = SpliceLedger(LIMITS)
    assert [status_of(ledger, 0, 3, 0) for _ in range(3)] == [None, None, RelayStatus.CLIENT_OVER_LIMIT]
    assert status_of(ledger, 1, 3, 1) is None


def test_one_subscribers_ipv6_addresses_are_one_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") != network_of("2001:db8:0:1::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("") == ""


def test_leases_end_are_renewed_and_are_counted_once() -> None:
    book = LeaseBook(SpliceLimits(leases=2, lease_s=100))
    assert book.grant(PEERS[0], HOSTS[0], 1000.5, lambda _: True) == 1100
    assert book.grant(PEERS[0], HOSTS[1], 1050.0, lambda _: True) == 1150
    assert book.grant(PEERS[1], HOSTS[0], 1060.0, lambda _: True) == 1160
    assert book.count(1060.0) == 2
    with pytest.raises(LeaseRefusedError, match="all its leases"):
        book.grant(PEERS[2], HOSTS[0], 1149.0, lambda _: True)
    assert book.grant(PEERS[1], HOSTS[0], 1149.0, lambda _: True) == 1249, "who is in may renew"
    assert book.grant(PEERS[2], HOSTS[0], 1150.0, lambda _: True) == 1250, "one is over"
    assert book.count(1250.0) == 0


def test_peers_that_left_make_room_and_those_that_stay_do_not() -> None:
    book = LeaseBook(SpliceLimits(leases=2))
    for peer in PEERS[:2]:
        book.grant(peer, HOSTS[0], 0.0, lambda _: True)
    assert book.grant(PEERS[2], HOSTS[0], 1.0, lambda peer: peer != PEERS[0])
    with pytest.raises(LeaseRefusedError):
        book.grant(PEERS[3], HOSTS[0], 1.0, lambda _: True)
    assert book.count(1.0) == 2


def test_one_network_cannot_take_all_leases() -> None:
    book = LeaseBook(SpliceLimits(leases_per_host=2))
    book.grant(PEERS[0], "2001:db8::1", 0.0, lambda _: True)
    book.grant(PEERS[1], "2001:db8::2", 0.0, lambda _: True)
    with pytest.raises(LeaseRefusedError, match="your network address"):
        book.grant(PEERS[2], "2001:db8::3", 0.0, lambda _: True)
    assert book.grant(PEERS[1], "2001:db8::4", 1.0, lambda _: True), "who is in may renew"
    assert book.grant(PEERS[2], "2001:db8:1::1", 1.0, lambda _: True)
