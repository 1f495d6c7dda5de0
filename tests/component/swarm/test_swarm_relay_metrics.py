"""What a relay's circuits leave in prometheus_client's default registry, which all nodes of the process share."""

from __future__ import annotations

import pytest
from circuits import behind_a_relay, echo
from prometheus_client import REGISTRY, generate_latest
from waiting import until

from lattica.errors import PeerUnreachableError
from lattica.identity import IdentityKey, PeerAddress
from lattica.swarm import RelayLimits

ECHO = "/test/echo/1"
NAMES = ("reservations", "circuits", "reservations_granted_total", "circuits_opened_total", "bytes_total")


def refusals(reason: str) -> float:
    return REGISTRY.get_sample_value("lattica_swarm_relay_refused_requests_total", {"reason": reason}) or 0.0


class Since:
    """How the metrics have changed since it was made."""

    def __init__(self) -> None:
        self._before = {name: self._now(name) for name in NAMES}

    def __getitem__(self, name: str) -> float:
        return self._now(name) - self._before[name]

    @staticmethod
    def _now(name: str) -> float:
        return REGISTRY.get_sample_value(f"lattica_swarm_relay_{name}") or 0.0


async def test_reservations_and_circuits_are_counted_while_they_last_and_in_all() -> None:
    since = Since()
    async with behind_a_relay() as net:
        await until(lambda: since["reservations"] == since["reservations_granted_total"] == 1)
        await net.target.reserve(net.relay.key.peer_id)
        await until(lambda: since["reservations_granted_total"] == 2)
        assert (since["reservations"], since["circuits"]) == (1, 0)
        net.target.serve_requests(ECHO, echo, 50_000)
        await net.client.connect(net.target.key.peer_id, [net.address])
        await net.client.request(net.target.key.peer_id, ECHO, bytes(40_000), 50_000)
        assert (since["circuits"], since["circuits_opened_total"]) == (1, 1)
        await until(lambda: since["bytes_total"] > 80_000)  # counted when they have gone
        assert since["bytes_total"] < 100_000
        await net.client.disconnect(net.target.key.peer_id)
        await until(lambda: since["circuits"] == 0)
    assert (since["reservations"], since["circuits"]) == (0, 0)
    assert (since["reservations_granted_total"], since["circuits_opened_total"]) == (2, 1)


async def test_two_relays_of_one_process_are_added() -> None:
    since = Since()
    async with behind_a_relay(), behind_a_relay():
        await until(lambda: since["reservations"] == since["reservations_granted_total"] == 2)


async def test_refusals_are_counted_by_reason() -> None:
    before = refusals("no_reservation"), refusals("reservation_refused")
    async with behind_a_relay(RelayLimits(reservations=1)) as net:
        nobody = PeerAddress.circuit(net.at).with_peer(IdentityKey.generate().peer_id)
        assert nobody.peer_id is not None
        with pytest.raises(PeerUnreachableError):
            await net.client.connect(nobody.peer_id, [nobody])
        with pytest.raises(Exception, match="RESERVATION_REFUSED"):
            await net.client.reserve(net.relay.key.peer_id)
        after = before[0] + 1, before[1] + 1
        await until(lambda: (refusals("no_reservation"), refusals("reservation_refused")) == after)


@pytest.mark.parametrize("end", ["the target leaves", "we are no relay any more", "we are one anew"])
async def test_a_reservation_that_is_void_is_not_counted_any_more(end: str) -> None:
    since = Since()
    async with behind_a_relay() as net:
        await until(lambda: since["reservations"] == 1)
        if end == "the target leaves":
            await net.target.disconnect(net.relay.key.peer_id)
        elif end == "we are no relay any more":
            await net.relay.stop_relay()
        else:
            await net.relay.serve_relay(RelayLimits())
        await until(lambda: since["reservations"] == 0)
        assert since["reservations_granted_total"] == 1


async def test_nobody_is_named() -> None:
    async with behind_a_relay() as net:
        await net.client.connect(net.target.key.peer_id, [net.address])
        text = generate_latest(REGISTRY).decode()
        for swarm in (net.relay, net.target, net.client):
            assert str(swarm.key.peer_id) not in text
