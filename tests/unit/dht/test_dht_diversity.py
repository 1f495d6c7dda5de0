from __future__ import annotations

import pytest

from lattica.dht.diversity import ip_groups

TCP = b"\x06\x0f\xa1"
IP6 = b"\x29\x2a\x01\x04\xf8" + bytes(11) + b"\x01"


@pytest.mark.parametrize(
    ("address", "groups"),
    [
        pytest.param(b"\x04\x08\x08\x04\x04" + TCP, {b"\x04\x08\x08"}, id="public IPv4: its /16"),
        pytest.param(IP6 + TCP, {b"\x29\x2a\x01\x04\xf8"}, id="public IPv6: its /32"),
        pytest.param(b"\x04\x7f\x00\x00\x01" + TCP, set(), id="loopback"),
        pytest.param(b"\x04\x0a\x00\x00\x01" + TCP, set(), id="private"),
        pytest.param(b"\x04\x08\x08\x04\x04" + TCP + b"\xa2\x02", set(), id="circuit: the relay's block"),
        pytest.param(b"\x36\x0bexample.org" + TCP, set(), id="DNS name"),
        pytest.param(b"\x04\x08", set(), id="cut short"),
        pytest.param(b"\x29\x2a\x01", set(), id="IPv6 cut short"),
        pytest.param(b"", set(), id="empty"),
    ],
)
def test_only_direct_public_addresses_belong_to_a_block(address: bytes, groups: set[bytes]) -> None:
    assert ip_groups([address]) == groups


def test_a_peer_belongs_to_all_blocks_of_its_addresses() -> None:
    assert ip_groups([b"\x04\x08\x08\x04\x04" + TCP, IP6 + TCP, b"\x04\x08\x08\x01\x01" + TCP]) == {
        b"\x04\x08\x08",
        b"\x29\x2a\x01\x04\xf8",
    }
