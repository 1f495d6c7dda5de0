from __future__ import annotations

from lattica.dht.peer_info import PeerInfo
from lattica.dht.search import ProviderSearch
from lattica.identity import PeerId

LOCAL = PeerId(b"\x12\x20" + b"l" * 32)


def peer(number: int, *addresses: bytes) -> PeerInfo:
    return PeerInfo(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), addresses)


async def read(search: ProviderSearch) -> list[PeerInfo]:
    found = []
    while (provider := await search.next()) is not None:
        found.append(provider)
    return found


async def test_each_provider_is_handed_on_once_and_never_ourselves() -> None:
    search = ProviderSearch(local=LOCAL, limit=10)
    for provider in (peer(1, b"a"), PeerInfo(LOCAL, (b"us",)), peer(1, b"b"), peer(2, b"c")):
        search.add(provider)
    search.finish()
    assert await read(search) == [peer(1, b"a"), peer(2, b"c")]


async def test_a_provider_is_held_back_until_somebody_knows_its_address() -> None:
    search = ProviderSearch(local=LOCAL, limit=10)
    for provider in (peer(1), peer(2, b"b"), peer(3), peer(1, b"a")):
        search.add(provider)
    assert await search.next() == peer(2, b"b")
    assert await search.next() == peer(1, b"a")
    search.finish()
    assert await read(search) == [peer(3)]


async def test_it_is_full_at_the_limit_and_takes_no_more() -> None:
    search = ProviderSearch(local=LOCAL, limit=2)
    for number in range(1, 5):
        assert search.full == (number > 2)
        search.add(peer(number, b"a"))
    search.finish()
    assert await read(search) == [peer(1, b"a"), peer(2, b"a")]


async def test_providers_without_address_do_not_exceed_the_limit() -> None:
    search = ProviderSearch(local=LOCAL, limit=2)
    for number in range(1, 1000):
        search.add(peer(number))
    search.finish()
    assert await read(search) == [peer(1), peer(2)]
