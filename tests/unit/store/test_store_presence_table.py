"""Records of presence: which are taken, which are news, and until when they are good."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_documents import key_of

from lattica.errors import EntryRefusedError, StoreValueError
from lattica.identity import PeerId
from lattica.store import presence_table
from lattica.store.clock import MAX_SKEW_S
from lattica.store.namespace import NamespaceId
from lattica.store.presence_record import MAX_PRESENCE_BYTES, MAX_TOLD_BYTES, PresenceBody, read_presence, sign_presence
from lattica.store.presence_table import PresenceTable
from lattica.store.values import Storable, Value

NOW = 1_700_000_000.0
TTL = 30.0
NAMESPACE = NamespaceId(bytes(32))
ALICE, BOB, CAROL = (key_of(number).peer_id for number in range(3))

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def table_of(number: int, *, started: float = NOW, allowed: Sequence[PeerId] = (ALICE, BOB, CAROL)) -> PresenceTable:
    return PresenceTable(key_of(number), NAMESPACE, lambda peer: peer in allowed, started)


def told_by(number: int, value: Storable = 1, *, at: float = NOW, started: float = NOW, ttl: float = TTL) -> bytes:
    return table_of(number, started=started).own(value, at, ttl)


def forged(**changes: object) -> bytes:
    """Bob's record with another content, and his signature."""
    record = read_presence(told_by(1))
    body = msgspec.structs.replace(record.body, **changes)
    return msgspec.msgpack.encode((msgspec.msgpack.encode(body), record.signature))


def signed(told: bytes) -> bytes:
    """Bob's record of these bytes."""
    body = PresenceBody(ALICE.raw, 0, 1, int(NOW * 1000), 30_000, told)
    text = msgspec.msgpack.encode(msgspec.structs.replace(body, author=BOB.raw))
    signature = key_of(1).sign(b"lattica-store-presence/1:" + NAMESPACE.raw + text)
    return msgspec.msgpack.encode((text, signature))


class TestTelling:
    @given(values)
    def test_a_value_comes_out_as_it_was_told(self, value: Value) -> None:
        alice = table_of(0)

        assert alice.admit(told_by(1, value), NOW)

        expected = {} if value is None else {BOB: value}
        assert alice.values(NOW) == expected
        assert repr(alice.values(NOW)) == repr(expected) or isinstance(value, (dict, list, tuple))

    def test_our_own_value_is_among_them(self) -> None:
        alice = table_of(0)
        raw = alice.own({"cursor": 3}, NOW, TTL)

        assert alice.values(NOW) == {ALICE: {"cursor": 3}}
        assert alice.snapshot() == [raw]
        assert not alice.admit(raw, NOW)

    def test_what_is_too_large_or_no_value_is_not_told(self) -> None:
        alice = table_of(0)
        alice.own(1, NOW, TTL)

        for value in (b"x" * MAX_TOLD_BYTES, {1, 2}):
            with pytest.raises(StoreValueError):
                alice.own(value, NOW, TTL)  # type: ignore[arg-type]

        assert alice.values(NOW) == {ALICE: 1}

    def test_the_largest_value_fits_with_its_signature(self) -> None:
        raw = told_by(1, b"x" * (MAX_TOLD_BYTES - 3))

        assert len(raw) <= MAX_PRESENCE_BYTES
        assert table_of(0).admit(raw, NOW)


class TestNews:
    def test_the_same_again_or_an_older_one_is_no_news(self) -> None:
        bob, alice = table_of(1), table_of(0)
        older, newer = bob.own("older", NOW, TTL), bob.own("newer", NOW, TTL)

        assert alice.admit(newer, NOW)
        assert not alice.admit(newer, NOW)
        assert not alice.admit(older, NOW)
        assert alice.values(NOW) == {BOB: "newer"}

    def test_a_later_instance_is_newer_whatever_its_number(self) -> None:
        bob, alice = table_of(1), table_of(0)
        for number in range(3):
            alice.admit(bob.own(number, NOW, TTL), NOW)

        assert alice.admit(told_by(1, "restarted", started=NOW + 1, at=NOW + 1), NOW + 1)
        assert not alice.admit(bob.own("ghost", NOW + 1, TTL), NOW + 1)
        assert alice.values(NOW + 1) == {BOB: "restarted"}

    def test_who_says_that_it_goes_is_gone_at_once_and_stays_so(self) -> None:
        bob, alice = table_of(1), table_of(0)
        here, gone = bob.own("here", NOW, TTL), bob.own(None, NOW, TTL)
        alice.admit(here, NOW)

        assert alice.admit(gone, NOW)
        assert alice.values(NOW) == {}
        assert not alice.admit(here, NOW)
        assert alice.snapshot() == [gone]  # for others, who may have the older one

    @given(st.data())
    def test_tables_agree_in_whatever_order_records_come(self, data: st.DataObject) -> None:
        tables = [table_of(1), table_of(1, started=NOW + 1), table_of(2), table_of(2)]  # the last two: one key, twice
        told = data.draw(st.lists(st.tuples(st.sampled_from(tables), st.none() | st.integers(0, 3)), max_size=12))
        raws = [table.own(value, NOW + 1, TTL) for table, value in told]

        one, other = table_of(0), table_of(0)
        for raw in data.draw(st.permutations(raws)):
            one.admit(raw, NOW + 1)
        for raw in data.draw(st.permutations(raws + raws)):
            other.admit(raw, NOW + 1)

        assert one.values(NOW + 1) == other.values(NOW + 1)
        assert sorted(one.snapshot()) == sorted(other.snapshot())

    @given(st.data())
    def test_a_snapshot_tells_all_that_there_is(self, data: st.DataObject) -> None:
        tables = [table_of(1), table_of(2)]
        told = data.draw(st.lists(st.tuples(st.sampled_from(tables), st.none() | st.integers(0, 3)), max_size=12))
        one, other = table_of(0), table_of(0)
        for table, value in told:
            one.admit(table.own(value, NOW, TTL), NOW)

        for raw in one.snapshot():
            assert other.admit(raw, NOW)

        assert one.values(NOW) == other.values(NOW)


class TestTime:
    def test_a_ghost_vanishes(self) -> None:
        alice = table_of(0)
        alice.admit(told_by(1), NOW)

        assert alice.next_end() == NOW + TTL
        assert alice.values(NOW + TTL - 0.001) == {BOB: 1}
        assert alice.values(NOW + TTL) == {}
        assert alice.expire(NOW + TTL - 0.001) == []
        assert alice.expire(NOW + TTL) == [BOB]
        assert alice.expire(NOW + TTL) == []
        assert alice.snapshot() == []

    def test_a_ghost_does_not_come_back_from_somebody_who_still_believes_in_it(self) -> None:
        alice = table_of(0)
        raw = told_by(1)
        alice.admit(raw, NOW)
        alice.expire(NOW + TTL)

        assert not alice.admit(raw, NOW + TTL)
        assert alice.expire(NOW + TTL + MAX_SKEW_S) == []
        with pytest.raises(EntryRefusedError, match="stale"):
            alice.admit(raw, NOW + TTL + MAX_SKEW_S)

    def test_who_comes_back_is_present_again(self) -> None:
        bob, alice = table_of(1), table_of(0)
        alice.admit(bob.own(1, NOW, TTL), NOW)
        alice.expire(NOW + TTL)

        assert alice.admit(bob.own(2, NOW + TTL, TTL), NOW + TTL)
        assert alice.values(NOW + TTL) == {BOB: 2}

    @given(st.floats(-MAX_SKEW_S, MAX_SKEW_S), st.floats(1, 600), st.floats(0, 2000))
    def test_a_ghost_vanishes_within_a_bound_whatever_its_clock_said(
        self, skew: float, ttl: float, late: float
    ) -> None:
        """Heard late, from somebody else: by its own clock, it is gone ``ttl`` and the skew after its last word."""
        alice = table_of(0)
        raw = told_by(1, at=NOW + skew, ttl=ttl)
        stale = NOW + skew + ttl + MAX_SKEW_S
        arrived = NOW + late
        if arrived >= stale + 0.01:
            with pytest.raises(EntryRefusedError, match="stale"):
                alice.admit(raw, arrived)
        elif arrived < stale - 0.01:
            assert alice.admit(raw, arrived)
            assert alice.values(min(arrived + ttl, stale) - 0.01) == {BOB: 1}
            assert alice.values(min(arrived + ttl, stale) + 0.01) == {}

    def test_what_is_of_the_future_is_refused(self) -> None:
        alice = table_of(0)

        assert alice.admit(told_by(1, at=NOW + MAX_SKEW_S), NOW)
        with pytest.raises(EntryRefusedError, match="ahead of ours"):
            alice.admit(told_by(2, at=NOW + MAX_SKEW_S + 0.01), NOW)
        assert alice.values(NOW) == {BOB: 1}


class TestRefusals:
    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(forged(value=b"\x02"), id="another value"),
            pytest.param(forged(seq=9), id="another number"),
            pytest.param(forged(author=CAROL.raw), id="another author"),
            pytest.param(forged(ttl=600_000), id="another duration"),
            pytest.param(msgspec.msgpack.encode((read_presence(told_by(1)).signed, b"")), id="no signature"),
        ],
    )
    def test_what_is_forged_is_refused(self, raw: bytes) -> None:
        alice = table_of(0)

        with pytest.raises(EntryRefusedError, match="signature is wrong"):
            alice.admit(raw, NOW)
        assert alice.snapshot() == []

    def test_what_was_said_in_another_namespace_is_refused(self) -> None:
        elsewhere = PresenceTable(key_of(1), NamespaceId(bytes(31) + b"\1"), lambda _: True, NOW)

        with pytest.raises(EntryRefusedError, match="signature is wrong"):
            table_of(0).admit(elsewhere.own(1, NOW, TTL), NOW)

    @pytest.mark.parametrize(
        "told",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"\xc1", id="no value"),
            pytest.param(b"\x91" * 3000, id="deep"),
            pytest.param(b"\x91" * 40 + b"\1", id="rather deep"),
            pytest.param(b"\x81\x01\x02", id="a number for a key"),
            pytest.param(b"\x81\x91\x01\x02", id="a list for a key"),
            pytest.param(b"\xcf" + b"\xff" * 8, id="beyond 64 bits"),
            pytest.param(b"\xd4\x05\x00", id="an extension"),
            pytest.param(b"\xd6\xff" + b"\0" * 4, id="a timestamp"),
            pytest.param(b"\xa1\xff", id="no text"),
        ],
    )
    def test_what_no_document_could_hold_is_refused(self, told: bytes) -> None:
        with pytest.raises(EntryRefusedError):
            table_of(0).admit(signed(told), NOW)

    @given(st.binary(max_size=60))
    def test_any_bytes_told_are_a_value_or_refused(self, told: bytes) -> None:
        alice = table_of(0)
        try:
            alice.admit(signed(told), NOW)
        except EntryRefusedError:
            assert alice.snapshot() == []

    @given(st.binary(max_size=300))
    def test_any_bytes_are_refused(self, raw: bytes) -> None:
        with pytest.raises(EntryRefusedError):
            table_of(0).admit(raw, NOW)

    def test_what_is_oversized_is_refused_unread(self) -> None:
        with pytest.raises(EntryRefusedError, match="4097 bytes of at most 4096"):
            table_of(0).admit(bytes(4097), NOW)

    @pytest.mark.parametrize("ttl", [0.5, 601])
    def test_a_duration_out_of_range_is_refused(self, ttl: float) -> None:
        body = PresenceBody(BOB.raw, 0, 1, int(NOW * 1000), round(ttl * 1000), b"\1")

        with pytest.raises(EntryRefusedError, match="malformed"):
            sign_presence(key_of(1), NAMESPACE, body)

    def test_who_has_no_right_to_write_is_refused(self) -> None:
        alice = table_of(0, allowed=(ALICE, CAROL))

        with pytest.raises(EntryRefusedError, match="no right"):
            alice.admit(told_by(1), NOW)
        assert alice.admit(told_by(2), NOW)

    def test_who_loses_its_right_is_gone(self) -> None:
        allowed = [ALICE, BOB]
        alice = table_of(0, allowed=allowed)
        alice.admit(told_by(1), NOW)

        allowed.remove(BOB)

        assert alice.values(NOW) == {}
        assert alice.expire(NOW) == [BOB]


class TestBounds:
    def test_a_full_table_takes_no_new_author_but_those_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(presence_table, "MAX_PRESENT", 2)
        bob, alice = table_of(1), table_of(0)
        alice.own(1, NOW, TTL)
        alice.admit(bob.own(1, NOW, TTL), NOW)

        with pytest.raises(EntryRefusedError, match="2 authors"):
            alice.admit(told_by(2), NOW)
        assert alice.admit(bob.own(2, NOW, TTL), NOW)
        assert alice.values(NOW) == {ALICE: 1, BOB: 2}

    @pytest.mark.parametrize("goes", [True, False])
    def test_those_who_have_gone_make_room(self, monkeypatch: pytest.MonkeyPatch, *, goes: bool) -> None:
        monkeypatch.setattr(presence_table, "MAX_PRESENT", 1)
        bob, alice = table_of(1), table_of(0)
        alice.admit(bob.own(1, NOW, TTL), NOW)
        later = NOW if goes else NOW + TTL
        if goes:
            alice.admit(bob.own(None, NOW, TTL), NOW)

        assert alice.admit(told_by(2, at=later), later)
        assert alice.values(later) == {CAROL: 1}

    def test_the_bytes_of_all_records_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(presence_table, "MAX_TABLE_BYTES", 2000)
        bob, alice = table_of(1), table_of(0)
        for _ in range(5):
            assert alice.admit(bob.own(b"x" * 1000, NOW, TTL), NOW)

        with pytest.raises(EntryRefusedError, match="of what they tell"):
            alice.admit(told_by(2, b"x" * 1000), NOW)
        assert alice.admit(told_by(2, b"x"), NOW)
        with pytest.raises(EntryRefusedError, match="of what they tell"):
            alice.admit(bob.own(b"x" * 1800, NOW, TTL), NOW)
        assert alice.values(NOW) == {BOB: b"x" * 1000, CAROL: b"x"}
