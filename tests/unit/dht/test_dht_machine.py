from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.dht.keyspace import common_prefix_length, key_of
from lattica.dht.limits import (
    BACKOFF_BASE,
    BACKOFF_FACTOR,
    BACKOFF_MAX,
    MAX_TABLE_FAILURES,
    PROVIDER_RECORD_TTL,
    PUBLISH_RETRY_MIN,
    REFRESH_INTERVAL,
    K,
)
from lattica.dht.machine import KadMachine
from lattica.dht.messages import Message, MessageType, decode_response, encode
from lattica.dht.peer_info import PeerInfo
from lattica.errors import RemoteProtocolError, StreamError
from lattica.identity import PeerId

MULTIHASH = b"\x12\x20" + b"m" * 32


def peer(number: int, addresses: tuple[bytes, ...] = (b"address",)) -> PeerInfo:
    return PeerInfo(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), addresses)


LOCAL = peer(0, (b"ours",))
SENDER = peer(1000)


class Node:
    """A machine and the connections it has."""

    def __init__(self) -> None:
        self.connected: dict[PeerId, Sequence[bytes]] = {}
        self.machine = KadMachine(
            LOCAL.peer_id,
            rng=random.Random(1),
            local_addresses=lambda: LOCAL.addresses,
            addresses_of=lambda peer_id: self.connected.get(peer_id, ()),
        )

    def ask(self, kind: MessageType, key: bytes = MULTIHASH, now: float = 0.0, *providers: PeerInfo) -> Message | None:
        return self.machine.answer(SENDER.peer_id, Message(type=kind, key=key, provider_peers=providers), now)

    def closer(self, kind: MessageType, key: bytes = MULTIHASH, now: float = 0.0) -> tuple[PeerInfo, ...]:
        answer = self.ask(kind, key, now)
        assert answer is not None
        assert answer.type is kind
        return answer.closer_peers

    def providers(self, now: float = 0.0) -> tuple[PeerInfo, ...]:
        answer = self.ask(MessageType.GET_PROVIDERS, now=now)
        assert answer is not None
        return answer.provider_peers


@pytest.fixture
def node() -> Node:
    return Node()


def fill(node: Node, count: int = 30) -> list[PeerInfo]:
    """Contacts, the nearest to MULTIHASH first."""
    for number in range(1, count + 1):
        node.machine.peer_seen(peer(number), 0.0)
    return sorted(node.machine.table, key=lambda info: key_of(info.peer_id.raw) ^ key_of(MULTIHASH))


class TestFindNode:
    @pytest.mark.parametrize("kind", [MessageType.FIND_NODE, MessageType.GET_PROVIDERS, MessageType.GET_VALUE])
    def test_the_k_nearest_contacts_are_named(self, node: Node, kind: MessageType) -> None:
        nearest = fill(node)
        assert node.closer(kind) == tuple(nearest[:K])

    def test_an_empty_table_names_nobody(self, node: Node) -> None:
        assert node.closer(MessageType.FIND_NODE) == ()

    def test_the_sender_is_not_told_of_itself(self, node: Node) -> None:
        node.machine.peer_seen(SENDER, 0.0)
        node.machine.peer_seen(peer(1), 0.0)
        assert node.closer(MessageType.FIND_NODE) == (peer(1),)

    def test_contacts_that_failed_last_are_not_recommended(self, node: Node) -> None:
        nearest, *others = fill(node, 10)
        node.machine.request_failed(nearest.peer_id, 0.0)
        assert node.closer(MessageType.FIND_NODE) == tuple(others)
        assert node.closer(MessageType.FIND_NODE, now=1e6) == tuple(others), "not until it answers"
        node.machine.peer_seen(nearest, 0.0)
        assert node.closer(MessageType.FIND_NODE) == (nearest, *others)

    def test_the_node_itself_is_named_with_its_addresses_when_asked_for(self, node: Node) -> None:
        contacts = fill(node, 5)
        assert node.closer(MessageType.FIND_NODE, LOCAL.peer_id.raw)[0] == LOCAL
        assert len(node.closer(MessageType.FIND_NODE, LOCAL.peer_id.raw)) == len(contacts) + 1

    def test_a_connected_client_is_found_though_it_is_no_contact(self, node: Node) -> None:
        client = peer(77, (b"client",))
        node.connected[client.peer_id] = client.addresses
        fill(node, 5)
        assert node.closer(MessageType.FIND_NODE, client.peer_id.raw)[0] == client
        assert client.peer_id not in node.machine.table

    def test_a_provider_is_found_by_the_addresses_it_gave(self, node: Node) -> None:
        node.ask(MessageType.ADD_PROVIDER, MULTIHASH, 0.0, SENDER)
        answer = node.machine.answer(peer(5).peer_id, Message(type=MessageType.FIND_NODE, key=SENDER.peer_id.raw), 1.0)
        assert answer is not None
        assert answer.closer_peers == (SENDER,)

    def test_a_contact_that_is_asked_for_is_named_once(self, node: Node) -> None:
        fill(node, 30)
        named = [info.peer_id for info in node.closer(MessageType.FIND_NODE, peer(3).peer_id.raw)]
        assert named.count(peer(3).peer_id) == 1
        assert named[0] == peer(3).peer_id

    def test_any_bytes_can_be_a_key(self, node: Node) -> None:
        fill(node, 5)
        assert len(node.closer(MessageType.FIND_NODE, b"?")) == 5


class TestProviders:
    def test_a_provider_that_names_itself_is_stored_until_it_expires(self, node: Node) -> None:
        assert node.ask(MessageType.ADD_PROVIDER, MULTIHASH, 0.0, SENDER) is None
        assert node.providers(now=1.0) == (SENDER,)
        assert node.providers(now=PROVIDER_RECORD_TTL) == ()

    def test_only_the_senders_own_record_is_stored(self, node: Node) -> None:
        node.ask(MessageType.ADD_PROVIDER, MULTIHASH, 0.0, peer(5), SENDER, peer(6))
        assert node.providers() == (SENDER,)

    @pytest.mark.parametrize("named", [(), (peer(5),)])
    def test_a_record_for_somebody_else_is_refused(self, node: Node, named: tuple[PeerInfo, ...]) -> None:
        with pytest.raises(RemoteProtocolError, match="does not name its sender"):
            node.ask(MessageType.ADD_PROVIDER, MULTIHASH, 0.0, *named)
        assert node.providers() == ()

    def test_a_record_for_a_key_that_is_no_multihash_is_refused(self, node: Node) -> None:
        with pytest.raises(RemoteProtocolError, match="not a multihash"):
            node.ask(MessageType.ADD_PROVIDER, b"/ipns/abc", 0.0, SENDER)

    def test_what_we_provide_ourselves_is_named_first(self, node: Node) -> None:
        node.ask(MessageType.ADD_PROVIDER, MULTIHASH, 0.0, SENDER)
        node.machine.publications.add(MULTIHASH, 0.0)
        assert node.providers() == (LOCAL, SENDER)
        node.machine.publications.discard(MULTIHASH)
        assert node.providers() == (SENDER,)


class TestOtherRequests:
    def test_ping_is_answered_without_echoing_what_came_with_it(self, node: Node) -> None:
        assert node.ask(MessageType.PING, b"key", 0.0, SENDER) == Message(type=MessageType.PING)

    def test_values_are_not_stored(self, node: Node) -> None:
        with pytest.raises(StreamError, match="PUT_VALUE refused"):
            node.ask(MessageType.PUT_VALUE)

    def test_a_request_shows_that_a_contact_lives_and_makes_no_contact_of_a_stranger(self, node: Node) -> None:
        node.machine.peer_seen(SENDER, 0.0)
        node.ask(MessageType.PING, now=REFRESH_INTERVAL)
        assert node.machine.due_checks(REFRESH_INTERVAL + 1) == []
        node.machine.answer(peer(5).peer_id, Message(type=MessageType.PING), 0.0)
        assert len(node.machine.table) == 1


@given(
    st.builds(
        Message,
        type=st.sampled_from(MessageType),
        key=st.one_of(st.binary(max_size=80), st.just(LOCAL.peer_id.raw), st.just(MULTIHASH)),
        closer_peers=st.lists(st.sampled_from([LOCAL, SENDER, peer(1)])).map(tuple),
        provider_peers=st.lists(st.sampled_from([LOCAL, SENDER, peer(1)])).map(tuple),
    )
)
def test_any_request_is_answered_or_refused(request_: Message) -> None:
    machine = Node().machine
    machine.peer_seen(peer(1), 0.0)
    with suppress(RemoteProtocolError, StreamError):
        answer = machine.answer(SENDER.peer_id, request_, 0.0)
        if answer is not None:
            assert decode_response(encode(answer), request_, LOCAL.peer_id) == answer


class TestFailures:
    def test_a_contact_survives_an_outage_and_goes_after_three_spaced_failures(self, node: Node) -> None:
        node.machine.peer_seen(peer(1), 0.0)
        now = 0.0
        for failure in range(MAX_TABLE_FAILURES):
            assert peer(1).peer_id in node.machine.table
            node.machine.request_failed(peer(1).peer_id, now)
            node.machine.request_failed(peer(1).peer_id, now + 1)
            now += BACKOFF_BASE * BACKOFF_FACTOR**failure
        assert peer(1).peer_id not in node.machine.table

    def test_a_contact_that_broke_the_protocol_goes_at_once_and_is_left_alone(self, node: Node) -> None:
        node.machine.peer_seen(peer(1), 0.0)
        node.machine.peer_misbehaved(peer(1).peer_id, 0.0)
        assert peer(1).peer_id not in node.machine.table
        node.machine.peer_seen(peer(1), BACKOFF_MAX - 1)
        assert peer(1).peer_id not in node.machine.table
        node.machine.peer_seen(peer(1), BACKOFF_MAX)
        assert peer(1).peer_id in node.machine.table

    def test_a_lookup_passes_over_contacts_that_failed_lately(self, node: Node) -> None:
        nearest, *others = fill(node, 5)
        node.machine.request_failed(nearest.peer_id, 0.0)
        asked = [query.peer for query in node.machine.lookup(MULTIHASH, 1.0).start()]
        assert asked == others[:3]
        asked = [query.peer for query in node.machine.lookup(MULTIHASH, BACKOFF_BASE).start()]
        assert asked == [nearest, *others[:2]]

    def test_a_peer_that_does_not_serve_any_longer_is_forgotten(self, node: Node) -> None:
        node.machine.peer_seen(peer(1), 0.0)
        node.machine.peer_lost(peer(1).peer_id)
        assert len(node.machine.table) == 0

    def test_contacts_that_were_silent_for_a_refresh_interval_are_to_be_checked(self, node: Node) -> None:
        node.machine.peer_seen(peer(1), 0.0)
        node.machine.peer_seen(peer(2), 10.0)
        assert node.machine.due_checks(REFRESH_INTERVAL + 5) == [peer(1)]


class TestRefresh:
    def test_a_fresh_node_looks_up_itself_only(self, node: Node) -> None:
        assert node.machine.refresh_targets(0.0) == [LOCAL.peer_id.raw]

    def test_one_target_falls_into_each_bucket_that_was_not_used(self, node: Node) -> None:
        fill(node, 500)
        ours, *targets = node.machine.refresh_targets(0.0)
        assert ours == LOCAL.peer_id.raw
        local_key = key_of(LOCAL.peer_id.raw)
        lengths = [common_prefix_length(local_key, key_of(target)) for target in targets]
        assert lengths == list(range(len(node.machine.table.buckets) - 1))

    def test_a_bucket_that_was_used_is_left_out_until_the_interval_is_over(self, node: Node) -> None:
        fill(node, 500)
        _, first, *others = node.machine.refresh_targets(0.0)
        node.machine.lookup(first, 10.0)
        assert len(node.machine.refresh_targets(10.0)) == len(others) + 1
        assert len(node.machine.refresh_targets(10.0 + REFRESH_INTERVAL + 1)) == len(others) + 2


def test_what_the_table_learns_makes_unstored_keys_due(node: Node) -> None:
    node.machine.publications.add(MULTIHASH, 0.0)
    node.machine.publications.begin(MULTIHASH, table_size=0)
    node.machine.publications.finished(MULTIHASH, accepted=0, now=0.0)
    assert node.machine.publications.upcoming() == (PUBLISH_RETRY_MIN, MULTIHASH)
    node.machine.peer_seen(peer(1), 1.0)
    assert node.machine.publications.upcoming() == (1.0, MULTIHASH)
