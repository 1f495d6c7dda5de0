"""Which address of its own a host names for IPv6."""

from __future__ import annotations

import pytest

from lattica.mesh.own_ipv6 import outbound_ipv6
from netlab import Lab

pytestmark = pytest.mark.netns


def test_it_is_the_one_that_connections_come_from(lab: Lab) -> None:
    host = lab.host("host", ipv6=True)
    host.ip("addr add fd00::7/64 dev lo", "addr add 2a99::7/64 dev lo")
    assert host.call(outbound_ipv6) == str(host.ipv6)


def test_a_host_without_ipv6_has_none(lab: Lab) -> None:
    assert lab.host("host").call(outbound_ipv6) is None


def test_an_address_that_only_its_site_knows_does_not_count(lab: Lab) -> None:
    host = lab.host("host", ipv6=True)
    host.ip("addr add fd00::7/64 dev eth0 nodad", "route add default via fd00::1 dev eth0 src fd00::7 metric 1")
    assert host.call(outbound_ipv6) is None
