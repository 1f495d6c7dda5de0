"""Work stealing over index ranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattica.content.fetch_regions import Region, Regions


def take_all(regions: Regions, region: Region) -> list[int]:
    taken = []
    while region or regions.fill(region):
        taken.append(regions.take(region))
    return taken


def test_one_gets_everything_in_order_from_its_start_on() -> None:
    regions = Regions(6, start=4)
    assert take_all(regions, regions.join()) == [4, 5, 0, 1, 2, 3]
    assert regions.remaining == 0


def test_a_second_one_gets_the_back_half() -> None:
    regions = Regions(10)
    first, second = regions.join(), regions.join()
    regions.fill(first)
    assert [regions.take(first), regions.take(first)] == [0, 1]
    regions.fill(second)
    assert (second.low, second.high) == (6, 10)
    assert (first.low, first.high) == (2, 6)


def test_what_a_leaver_had_goes_to_the_next_in_need() -> None:
    regions = Regions(10)
    first, second = regions.join(), regions.join()
    regions.fill(first)
    regions.take(first)
    regions.leave(first)
    assert take_all(regions, second) == list(range(1, 10))


def test_nothing_to_fill_from_is_said() -> None:
    regions = Regions(1)
    first, second = regions.join(), regions.join()
    assert regions.fill(first)
    assert regions.fill(second), "the one chunk changes hands"
    regions.take(second)
    assert not regions.fill(first)


@given(st.integers(1, 200), st.data())
def test_every_chunk_is_taken_exactly_once_whoever_comes_and_goes(count: int, data: st.DataObject) -> None:
    regions = Regions(count, data.draw(st.integers(0, count - 1)))
    members: list[Region] = []
    taken: list[int] = []
    for step in data.draw(st.lists(st.sampled_from(["join", "leave", "take", "take", "take"]), max_size=60)):
        if step == "join":
            members.append(regions.join())
        elif members:
            member = data.draw(st.sampled_from(members))
            if step == "leave":
                regions.leave(member)
                members.remove(member)
            elif member or regions.fill(member):
                taken.append(regions.take(member))
    assert regions.remaining == count - len(taken)
    taken += take_all(regions, regions.join())
    assert sorted(taken) == list(range(count))
