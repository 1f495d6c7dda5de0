"""What the reader of Yjs updates finds, and what it refuses, in bytes made by hand."""

from __future__ import annotations

import pytest
from yjs_bytes import item, text, uint, update

from lattica.errors import DocumentUpdateError
from lattica.store.yupdate import MAX_CLOCK, ItemId, Kind, Struct, UpdateLimits, check_own, read_update
from lattica.store.yupdate_wire import MAX_INTEGER, MAX_NESTING

HI = item(4, text("hi"))
ANY, BINARY, DOC, EMBED, FORMAT, STRING, TYPE = 8, 3, 9, 5, 6, 4, 7
NULL = b"\x7e"


def of_seven(*structs: bytes) -> bytes:
    return update({7: (0, structs)})


def nested(depth: int) -> bytes:
    return b"\x75\x01" * (depth - 1) + NULL


def json_nested(depth: int) -> str:
    return "[" * (depth - 1) + "1" + "]" * (depth - 1)


@pytest.mark.parametrize(
    ("struct", "kind", "length"),
    [
        pytest.param(b"\0" + uint(300), Kind.GC, 300, id="gc"),
        pytest.param(item(1, uint(5)), Kind.DELETED, 5, id="deleted"),
        pytest.param(item(BINARY, text(b"\xff\xfe")), Kind.BINARY, 1, id="binary"),
        pytest.param(item(STRING, text("naïve")), Kind.STRING, 5, id="string"),
        pytest.param(item(STRING, text("a😀b")), Kind.STRING, 4, id="string with a surrogate pair"),
        pytest.param(item(EMBED, text('{"a":[1.5,"\\ud83d\\ude00"]}')), Kind.EMBED, 1, id="embed"),
        pytest.param(item(FORMAT, text("bold") + text("true")), Kind.FORMAT, 1, id="format"),
        pytest.param(item(EMBED, text(json_nested(MAX_NESTING))), Kind.EMBED, 1, id="deep JSON"),
        *(pytest.param(item(TYPE, bytes([ref])), Kind.TYPE, 1, id=f"type {ref}") for ref in (0, 1, 4)),
        *(pytest.param(item(TYPE, bytes([ref])), Kind.TEXT, 1, id=f"text {ref}") for ref in (2, 6)),
        pytest.param(item(TYPE, b"\x03" + text("p")), Kind.TYPE, 1, id="XML element"),
        pytest.param(item(ANY, b"\x03\x7e\x7f\x78"), Kind.ANY, 3, id="null, undefined, true"),
        pytest.param(item(ANY, b"\x02\x7d\x40\x7d\x81\x01"), Kind.ANY, 2, id="integers"),
        pytest.param(item(ANY, b"\x02\x7c" + bytes(4) + b"\x7b" + bytes(8)), Kind.ANY, 2, id="floats"),
        pytest.param(item(ANY, b"\x02\x7a" + bytes(8) + b"\x74" + text(b"\xff")), Kind.ANY, 2, id="bigint, bytes"),
        pytest.param(item(ANY, b"\x01\x76\x01" + text("k") + b"\x75\x02\x79\x79"), Kind.ANY, 1, id="map of a list"),
        pytest.param(item(ANY, b"\x01" + nested(MAX_NESTING)), Kind.ANY, 1, id="deep value"),
        pytest.param(item(DOC, text("guid") + b"\x76\x00"), Kind.DOC, 1, id="subdocument"),
    ],
)
def test_every_content_is_read_with_its_length(struct: bytes, kind: Kind, length: int) -> None:
    found = read_update(update({7: (3, [struct, HI])}, {})).structs[7]

    assert found[0].kind is kind
    assert (found[0].clock, found[0].length) == (3, length)
    assert found[1].clock == 3 + length


def test_neighbours_parents_and_keys_are_told() -> None:
    raw = update(
        {
            MAX_INTEGER: (0, [item(STRING, text("a"), root="page", key="title")]),
            7: (
                4,
                [
                    item(STRING, text("b"), parent=(MAX_INTEGER, 0)),
                    item(STRING, text("cc"), origin=(7, 4), right=(9, 300), key="inherited"),
                ],
            ),
        }
    )

    structs = read_update(raw).structs

    assert structs == {
        MAX_INTEGER: (Struct(0, 1, Kind.STRING, None, None, "page", "title", 2),),
        7: (
            Struct(4, 1, Kind.STRING, None, None, ItemId(MAX_INTEGER, 0), None, 2),
            Struct(5, 2, Kind.STRING, ItemId(7, 4), ItemId(9, 300), None, None, 3),
        ),
    }


def test_deleted_ranges_are_told_by_client() -> None:
    found = read_update(update({}, {7: [(0, 2), (2, 1), (500, 3)], 8: [(1, 1)]}))

    assert found.deletions == {7: ((0, 2), (2, 3), (500, 503)), 8: ((1, 2),)}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "ends too early", id="nothing"),
        pytest.param(of_seven(HI)[:-3], "ends too early", id="cut"),
        pytest.param(of_seven(HI) + b"\0", "1 bytes follow", id="more after the end"),
        pytest.param(of_seven(item(STRING, text(b"\xed\xa0\x80"))), "UTF-8", id="a surrogate in UTF-8"),
        pytest.param(of_seven(item(2, uint(1) + text("1"))), "kind 2 ", id="legacy JSON"),
        pytest.param(of_seven(b"\x0a\x05", HI), "kind 10 ", id="skip"),
        pytest.param(of_seven(item(11, b"\0")), "kind 11 ", id="kind of the future"),
        pytest.param(of_seven(bytes([STRING | 0x10]) + HI[1:]), "kind 20 ", id="unused bit, which yrs ignores"),
        pytest.param(of_seven(item(0, uint(1), origin=(1, 1))), "kind 0 ", id="GC with an origin"),
        pytest.param(of_seven(item(TYPE, b"\x05")), "shared types of kind 5", id="XML hook"),
        pytest.param(of_seven(item(TYPE, b"\x07\x00")), "shared types of kind 7", id="weak link"),
        pytest.param(of_seven(item(STRING, text(""))), "empty", id="empty string"),
        pytest.param(of_seven(item(ANY, b"\0")), "empty", id="no values"),
        pytest.param(of_seven(b"\0\0"), "empty", id="GC of nothing"),
        pytest.param(update({7: (0, [])}), "without structs", id="no structs"),
        pytest.param(b"\2" + of_seven(HI)[1:-1] * 2 + b"\0", "named twice", id="a client twice"),
        pytest.param(of_seven(bytes([STRING]) + b"\2" + HI[2:]), "parent is of kind 2", id="kind of parent"),
        pytest.param(of_seven(HI, item(STRING, text("a"), origin=(7, 2))), "refers to clock 2", id="origin is itself"),
        pytest.param(of_seven(item(STRING, text("a"), right=(7, 5))), "refers to clock 5", id="right origin is later"),
        pytest.param(of_seven(item(STRING, text("a"), parent=(7, 0))), "refers to clock 0", id="parent is itself"),
        pytest.param(of_seven(item(STRING, text("a"), origin=(1, 1), right=(1, 1))), "both sides", id="one neighbour"),
        pytest.param(b"\x01\x01\x87\x00\x00" + HI + b"\0", "more bytes than", id="longer integer than needed"),
        pytest.param(update({MAX_INTEGER + 1: (0, [HI])}), "too large", id="client of 54 bits"),
        pytest.param(update({1 << 63: (0, [HI])}), "too many bytes", id="client of 64 bits"),
        pytest.param(update({7: (MAX_CLOCK - 1, [HI])}), "clocks go beyond", id="clock of 32 bits"),
        pytest.param(update({}, {7: [(MAX_CLOCK, 1)]}), "clocks go beyond", id="deleted clock of 32 bits"),
        pytest.param(update({}, {7: [(5, 1), (0, 1)]}), "not in order", id="deleted ranges out of order"),
        pytest.param(update({}, {7: [(0, 2), (1, 2)]}), "overlap", id="deleted ranges overlap"),
        pytest.param(update({}, {7: [(0, 0)]}), "empty", id="empty deleted range"),
        pytest.param(update({}, {7: []}), "without deleted", id="no deleted ranges"),
        pytest.param(b"\0\2" + update({}, {7: [(0, 1)]})[2:] * 2, "named twice", id="deletions of a client twice"),
        pytest.param(uint(1 << 40) + bytes(9), "ends too early", id="more clients than bytes"),
        pytest.param(of_seven(item(ANY, b"\x01\x75" + uint(1 << 40))), "ends too early", id="more values than bytes"),
        pytest.param(of_seven(item(ANY, b"\x01\x40")), "no type 64", id="unknown value"),
        pytest.param(of_seven(item(ANY, b"\x01\x7d\x80\x00")), "more bytes than", id="longer signed integer"),
        pytest.param(of_seven(item(ANY, b"\x01\x7d" + b"\xff" * 9 + b"\1")), "too many bytes", id="signed, 64 bits"),
        pytest.param(of_seven(item(ANY, b"\x01" + nested(MAX_NESTING + 1))), "too deep", id="deep value"),
        pytest.param(of_seven(item(ANY, b"\x01" + nested(300_000))), "too deep", id="value that overflows yrs's stack"),
        pytest.param(of_seven(item(EMBED, text(json_nested(MAX_NESTING + 1)))), "too deep", id="deep JSON"),
        pytest.param(of_seven(item(EMBED, text("[" * 300_000))), "not JSON", id="JSON of brackets"),
        pytest.param(of_seven(item(EMBED, text("undefined"))), "not JSON", id="undefined"),
        pytest.param(of_seven(item(EMBED, text("NaN"))), "not JSON", id="NaN"),
        pytest.param(of_seven(item(EMBED, text("1e999"))), "not JSON", id="infinity"),
        pytest.param(of_seven(item(EMBED, text('"\\ud800"'))), "not JSON", id="lone surrogate"),
        pytest.param(of_seven(item(FORMAT, text("bold") + text("1 2"))), "not JSON", id="two values"),
    ],
)
def test_what_no_library_writes_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(DocumentUpdateError, match=reason):
        read_update(raw)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(UpdateLimits(size=40), id="size"),
        pytest.param(UpdateLimits(structs=2), id="structs"),
        pytest.param(UpdateLimits(clients=1), id="clients"),
        pytest.param(UpdateLimits(ranges=1), id="ranges"),
    ],
)
def test_more_than_the_limits_is_refused(limits: UpdateLimits) -> None:
    raw = update({7: (0, [HI, HI]), 8: (0, [HI])}, {7: [(0, 1)], 8: [(0, 1)]})
    assert read_update(raw, limits=UpdateLimits(size=len(raw), structs=3, clients=2, ranges=2))

    with pytest.raises(DocumentUpdateError, match=r"at most|more than"):
        read_update(raw, limits=limits)


def test_an_authors_update_goes_on_where_the_author_was() -> None:
    found = read_update(update({7: (3, [HI, HI])}, {9: [(0, 5)]}))

    assert check_own(found, 7, 3) == 7
    for first_clock in (2, 4):
        with pytest.raises(DocumentUpdateError, match="start at 3"):
            check_own(found, 7, first_clock)


def test_deletions_alone_leave_an_authors_clock() -> None:
    assert check_own(read_update(update({}, {9: [(0, 5)]})), 7, 3) == 3


def test_an_authors_update_must_not_hold_anothers_structs() -> None:
    found = read_update(update({7: (0, [HI]), 8: (0, [HI])}))

    with pytest.raises(DocumentUpdateError, match="client 8"):
        check_own(found, 7, 0)


def test_an_update_needs_what_it_refers_to_and_does_not_bring() -> None:
    own = [item(STRING, text("a"), origin=(7, 4), right=(8, 2)), item(STRING, text("b"), origin=(7, 5))]

    found = read_update(update({7: (5, own)}, {7: [(0, 7)], 9: [(1, 1), (5, 2)]}))

    assert found.needs() == {7: 5, 8: 3, 9: 7}


def test_deleting_beyond_ones_own_clock_is_needed_too() -> None:
    assert read_update(update({7: (0, [HI])}, {7: [(0, 9)]})).needs() == {7: 9}
