"""Clients' IDs are read alike whether they are met for the first time or again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import DocumentUpdateError
from lattica.store import yupdate_wire
from lattica.store.yupdate_wire import MAX_INTEGER, read_client, read_uint, write_uint

SEVEN_BYTES = 1 << 49
"""The first integer that does not fit them."""

clients = st.one_of(st.integers(0, MAX_INTEGER), st.integers(SEVEN_BYTES - 1, MAX_INTEGER))


def outcome(read: Callable[[bytes, int], tuple[int, int]], raw: bytes) -> object:
    """What is read at the beginning, or why nothing is."""
    try:
        return read(raw, 0)
    except (IndexError, DocumentUpdateError) as error:
        return type(error), str(error)


@given(st.lists(clients, min_size=1, max_size=8), st.binary(max_size=12))
def test_clients_are_read_as_integers_are_also_when_they_come_again(ids: list[int], rest: bytes) -> None:
    raw = b"".join(write_uint(client) for client in [*ids, *ids]) + rest
    at = 0
    for client in [*ids, *ids]:
        before = at
        value, at = read_client(raw, at)
        assert (value, at) == read_uint(raw, before)
        assert value == client


@given(st.binary(max_size=10), st.binary(max_size=3))
def test_any_bytes_are_read_or_refused_as_integers_are(raw: bytes, rest: bytes) -> None:
    outcome(read_client, raw + rest)

    assert outcome(read_client, raw) == outcome(read_client, raw) == outcome(read_uint, raw)


@pytest.mark.parametrize("kept", range(1, 8))
def test_a_known_client_that_is_cut_short_is_not_taken_for_whole(kept: int) -> None:
    raw = write_uint(MAX_INTEGER)
    assert read_client(raw, 0) == (MAX_INTEGER, 8)

    with pytest.raises(IndexError):
        read_client(raw[:kept], 0)


def test_only_so_many_clients_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[bytes, int] = {}
    monkeypatch.setattr(yupdate_wire, "_MAX_CLIENTS", 3)
    monkeypatch.setattr(yupdate_wire, "_CLIENTS", known)
    for number in range(10):
        assert read_client(write_uint(SEVEN_BYTES + number), 0) == (SEVEN_BYTES + number, 8)
        assert len(known) <= 3
