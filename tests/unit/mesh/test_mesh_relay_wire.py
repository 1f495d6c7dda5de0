"""Relay prefaces and tokens: whoever may be at the other end, only what the relay's own key has minted counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import AddressError, NetworkError, RemoteProtocolError
from lattica.identity import IdentityKey, PeerId
from lattica.mesh.relay_wire import (
    HEAD_BYTES,
    MAX_TOKEN,
    NONCE_BYTES,
    RELAY_MAGIC,
    SECRET_BYTES,
    SESSION_BYTES,
    MintingOffice,
    PrefaceKind,
    RelayRefusedError,
    RelayStatus,
    RelayToken,
    check_status,
    encode_accept,
    encode_dial,
    mint_token,
    parse_accept,
    parse_head,
)

NOW = 1_700_000_000
TARGET, CLIENT, OTHER = (IdentityKey.from_seed(bytes((number,)) * 32).peer_id for number in (1, 2, 3))
OFFICE = MintingOffice(b"the relay's seed")
LEASE_END = NOW + 3600
KEY = OFFICE.minting_key(TARGET, LEASE_END)
NONCE = bytes(range(NONCE_BYTES))


def a_token(
    *, target: PeerId = TARGET, client: PeerId = CLIENT, expires_at: int = NOW + 60, lease: int = LEASE_END
) -> RelayToken:
    return RelayToken(target=target, client=client, expires_at=expires_at, lease_expires_at=lease, nonce=NONCE)


TOKEN = mint_token(KEY, a_token())


def refused(raw: bytes, now: float = NOW, office: MintingOffice = OFFICE) -> RelayStatus:
    with pytest.raises(RelayRefusedError) as caught:
        office.recognise(raw, now)
    return caught.value.status


def test_the_relay_reads_what_the_target_minted() -> None:
    assert OFFICE.recognise(TOKEN, NOW) == a_token()
    assert MintingOffice(b"the relay's seed").recognise(TOKEN, NOW) == a_token(), "a restarted relay does not"


def test_the_longest_token_fits() -> None:
    long = PeerId(b"\x00\x3e" + bytes(62))
    token = mint_token(OFFICE.minting_key(long, LEASE_END), a_token(target=long, client=long))
    assert len(token) == MAX_TOKEN < 256
    assert OFFICE.recognise(token, NOW).target == long
    assert parse_head(encode_dial(token)[:HEAD_BYTES]) == (PrefaceKind.DIAL, MAX_TOKEN)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(a_token(target=OTHER), id="another-target"),
        pytest.param(a_token(lease=LEASE_END + 1), id="a-longer-lease"),
        pytest.param(a_token(lease=LEASE_END - 1), id="a-shorter-lease"),
    ],
)
def test_a_minting_key_is_for_one_target_and_one_lease(token: RelayToken) -> None:
    assert refused(mint_token(KEY, token)) is RelayStatus.FORGED


def test_another_relays_token_is_forged_here() -> None:
    assert refused(TOKEN, office=MintingOffice(b"another seed")) is RelayStatus.FORGED


def test_a_token_counts_until_its_last_second_and_never_after_its_lease() -> None:
    assert OFFICE.recognise(TOKEN, NOW + 60)
    assert refused(TOKEN, NOW + 61) is RelayStatus.EXPIRED
    eternal = mint_token(KEY, a_token(expires_at=(1 << 64) - 1))
    assert OFFICE.recognise(eternal, LEASE_END)
    assert refused(eternal, LEASE_END + 1) is RelayStatus.EXPIRED


@given(st.integers(min_value=0, max_value=8 * len(TOKEN) - 1))
def test_a_token_with_one_bit_changed_is_forged(bit: int) -> None:
    changed = (int.from_bytes(TOKEN) ^ (1 << bit)).to_bytes(len(TOKEN))
    assert refused(changed) is RelayStatus.FORGED


@given(st.binary(max_size=MAX_TOKEN))
def test_any_bytes_for_a_token_are_forged(raw: bytes) -> None:
    assert refused(raw) is RelayStatus.FORGED


@given(st.integers(min_value=0, max_value=len(TOKEN) - 1), st.binary(max_size=8))
def test_a_token_cut_or_with_more_behind_it_is_forged(length: int, more: bytes) -> None:
    assert refused(TOKEN[:length]) is RelayStatus.FORGED
    assert refused(TOKEN + b"\0" + more) is RelayStatus.FORGED


@given(
    st.binary(min_size=SESSION_BYTES, max_size=SESSION_BYTES), st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)
)
def test_prefaces_are_read_as_they_were_written(session: bytes, secret: bytes) -> None:
    preface = encode_accept(session, secret)
    assert parse_head(preface[:HEAD_BYTES]) == (PrefaceKind.ACCEPT, len(preface) - HEAD_BYTES)
    assert parse_accept(preface[HEAD_BYTES:]) == (session, secret)
    dial = encode_dial(TOKEN)
    assert dial[:1] == b"R"
    assert parse_head(dial[:HEAD_BYTES]) == (PrefaceKind.DIAL, len(TOKEN))
    assert dial[HEAD_BYTES:] == TOKEN


@given(st.binary(max_size=2 * HEAD_BYTES) | st.binary(min_size=2, max_size=2).map(lambda tail: RELAY_MAGIC + tail))
def test_a_hostile_head_is_a_bounded_preface_or_breaks_the_protocol(head: bytes) -> None:
    try:
        kind, length = parse_head(head)
    except RemoteProtocolError:
        return
    assert head.startswith(RELAY_MAGIC)
    assert 0 < length <= (MAX_TOKEN if kind is PrefaceKind.DIAL else SESSION_BYTES + SECRET_BYTES)


@pytest.mark.parametrize("size", [0, MAX_TOKEN + 1, 10_000])
def test_what_cannot_be_a_token_is_not_sent(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{size} bytes"):
        encode_dial(bytes(size))


@given(st.binary(max_size=3))
def test_an_answer_is_a_status_or_breaks_the_protocol(answer: bytes) -> None:
    if answer == b"\0":
        check_status(answer)
        return
    with pytest.raises(NetworkError) as caught:
        check_status(answer)
    known = len(answer) == 1 and answer[0] in list(RelayStatus)
    assert isinstance(caught.value, RelayRefusedError if known else RemoteProtocolError)


@pytest.mark.parametrize("status", [status for status in RelayStatus if status is not RelayStatus.OK])
def test_every_refusal_has_words(status: RelayStatus) -> None:
    assert len(str(RelayRefusedError(status))) > 10


def test_the_token_does_not_carry_a_peer_id_that_is_none() -> None:
    with pytest.raises(AddressError):
        PeerId(b"nobody")
    note = bytes((6,)) + b"nobody" + TOKEN[39:]
    assert refused(note) is RelayStatus.FORGED
