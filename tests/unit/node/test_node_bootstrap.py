"""Joining a network: which addresses are acceptable, and when the first answer is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from lattica.dht import Dht
from lattica.errors import AddressError, BootstrapError, ConfigError, PeerUnreachableError, UsageError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.node import bootstrap
from lattica.node.bootstrap import Bootstrapper, parse_peer_addresses
from lattica.swarm import Swarm

ALICE, BOB, CAROL = (IdentityKey.from_seed(bytes((number,)) * 32) for number in (1, 2, 3))
NEVER = 60.0


def at(key: IdentityKey, host: str = "192.0.2.1") -> str:
    return f"/ip4/{host}/tcp/4737/p2p/{key.peer_id}"


class FakeSwarm:
    """Connects after so many seconds, or refuses."""

    def __init__(self, **answers: float | str) -> None:
        self.key = ALICE
        self.dialled: list[PeerId] = []
        self._answers = answers
        self._connected: list[PeerId] = []

    async def connect(self, peer: PeerId, addresses: Sequence[PeerAddress]) -> None:
        self.dialled.append(peer)
        answer = self._answers["bob" if peer == BOB.peer_id else "carol"]
        if isinstance(answer, str):
            raise PeerUnreachableError(peer, {address.text: answer for address in addresses})
        await asyncio.sleep(answer)
        self._connected.append(peer)

    def connections(self) -> list[PeerId]:
        return self._connected

    def lose_all(self) -> None:
        self._connected.clear()


class FakeDht:
    routing_table_size = 0


def bootstrapper(swarm: FakeSwarm, *texts: str) -> Bootstrapper:
    peers = parse_peer_addresses(texts, "bootstrap")
    return Bootstrapper(cast(Swarm, swarm), cast(Dht, FakeDht()), peers)


def test_addresses_are_sorted_by_the_peer_that_they_name() -> None:
    by_peer = parse_peer_addresses([at(BOB), at(CAROL), at(BOB, "192.0.2.2")], "bootstrap")
    assert {peer: [one.host for one in addresses] for peer, addresses in by_peer.items()} == {
        BOB.peer_id: ["192.0.2.1", "192.0.2.2"],
        CAROL.peer_id: ["192.0.2.1"],
    }


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("/ip4/192.0.2.1/tcp/4737", ConfigError, "names no peer"),
        (f"/ip4/192.0.2.1/udp/4737/quic-v1/p2p/{BOB.peer_id}", AddressError, "only TCP"),
        ("192.0.2.1:4737", AddressError, "a multiaddr looks like"),
        ("", AddressError, "bad address"),
    ],
)
def test_an_address_that_leads_nowhere_is_the_users_mistake(text: str, kind: type[UsageError], said: str) -> None:
    with pytest.raises(kind, match=said):
        parse_peer_addresses([text], "bootstrap")


async def test_a_network_of_nobody_is_joined_at_once() -> None:
    await bootstrapper(FakeSwarm()).join()


async def test_a_node_does_not_dial_itself() -> None:
    swarm = FakeSwarm()
    await bootstrapper(swarm, at(ALICE)).join()
    assert swarm.dialled == []


async def test_all_are_dialled_at_once_and_one_is_enough() -> None:
    swarm = FakeSwarm(bob="connection refused", carol=0.0)
    await bootstrapper(swarm, at(BOB), at(CAROL)).join()
    assert set(swarm.dialled) == {BOB.peer_id, CAROL.peer_id}
    assert swarm.connections() == [CAROL.peer_id]


async def test_a_peer_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OTHERS_TIMEOUT_S", 0.02)
    async with asyncio.timeout(20):
        await bootstrapper(FakeSwarm(bob=NEVER, carol=0.0), at(BOB), at(CAROL)).join()


async def test_the_others_have_a_moment_to_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OTHERS_TIMEOUT_S", 20.0)
    swarm = FakeSwarm(bob=0.05, carol=0.0)
    await bootstrapper(swarm, at(BOB), at(CAROL)).join()
    assert swarm.connections() == [CAROL.peer_id, BOB.peer_id]


async def test_when_nobody_answers_every_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_TIMEOUT_S", 0.02)
    with pytest.raises(BootstrapError) as caught:
        await bootstrapper(FakeSwarm(bob="connection refused", carol=NEVER), at(BOB), at(CAROL, "192.0.2.3")).join()
    assert caught.value.attempts == {
        "/ip4/192.0.2.1/tcp/4737": "connection refused",
        "/ip4/192.0.2.3/tcp/4737": "no answer within 0 s",
    }


async def test_a_node_that_has_lost_everybody_joins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(bootstrap, "CHECK_S", 0.001)
    swarm = FakeSwarm(bob=0.0)
    keeper = bootstrapper(swarm, at(BOB))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(keeper.keep_joined())
        for expected in (1, 2):
            while not swarm.connections():
                await asyncio.sleep(0.001)
            assert len(swarm.dialled) == expected
            swarm.lose_all()
        keeping.cancel()
