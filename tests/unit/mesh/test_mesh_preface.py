"""The preface: who may open a pipe, and what a pipe's two ends prove to each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import IdentityKey, PeerId
from lattica.mesh.preface import (
    ANSWER_BYTES,
    HEAD_BYTES,
    MAC_BYTES,
    MAGIC,
    MAX_TOKEN,
    NONCE_BYTES,
    LinkRefusedError,
    PeerBusyError,
    PipeTicket,
    Status,
    TicketOffice,
    check_answer,
    check_preface,
    encode_preface,
    encode_refusal,
    rest_of_preface,
)

NOW = 1_700_000_000
HOUR = 3600
CLIENT = IdentityKey.from_seed(bytes(32)).peer_id
OFFICE = TicketOffice(b"the server's key")
TICKET = OFFICE.issue(CLIENT, NOW + HOUR)
NONCE = bytes(range(NONCE_BYTES))
PREFACE = encode_preface(TICKET, NONCE)


def rest(preface: bytes) -> bytes:
    return preface[HEAD_BYTES:]


def flip(data: bytes, bit: int) -> bytes:
    number = int.from_bytes(data) ^ (1 << bit % (8 * len(data)))
    return number.to_bytes(len(data))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES))
def test_both_ends_of_a_link_recognise_each_other(seed: bytes, nonce: bytes) -> None:
    client = IdentityKey.from_seed(seed).peer_id
    ticket = OFFICE.issue(client, NOW + HOUR)
    preface = encode_preface(ticket, nonce)
    assert rest_of_preface(preface[:HEAD_BYTES]) == len(preface) - HEAD_BYTES
    peer, answer = check_preface(OFFICE, rest(preface), NOW)
    assert peer == client
    assert len(answer) == ANSWER_BYTES
    check_answer(ticket, nonce, answer)


def test_a_ticket_outlives_a_restart_of_its_server() -> None:
    restarted = TicketOffice(b"the server's key")
    assert check_preface(restarted, rest(PREFACE), NOW)[0] == CLIENT


def test_another_nodes_ticket_is_refused() -> None:
    with pytest.raises(LinkRefusedError, match="unknown token"):
        check_preface(TicketOffice(b"another key"), rest(PREFACE), NOW)


def test_a_ticket_counts_until_its_last_second() -> None:
    assert check_preface(OFFICE, rest(PREFACE), NOW + HOUR)[0] == CLIENT
    with pytest.raises(LinkRefusedError, match="expired"):
        check_preface(OFFICE, rest(PREFACE), NOW + HOUR + 1)


@given(st.integers(min_value=0))
def test_a_token_with_one_bit_changed_is_refused(bit: int) -> None:
    forged = PipeTicket(flip(TICKET.token, bit), TICKET.secret)
    with pytest.raises(LinkRefusedError):
        check_preface(OFFICE, rest(encode_preface(forged, NONCE)), NOW)


def test_a_stolen_token_without_its_secret_is_refused() -> None:
    with pytest.raises(LinkRefusedError, match="wrong code"):
        check_preface(OFFICE, rest(encode_preface(PipeTicket(TICKET.token, bytes(32)), NONCE)), NOW)


def test_a_code_made_for_another_nonce_is_refused() -> None:
    other = encode_preface(TICKET, bytes(NONCE_BYTES))
    with pytest.raises(LinkRefusedError, match="wrong code"):
        check_preface(OFFICE, rest(PREFACE)[:-MAC_BYTES] + other[-MAC_BYTES:], NOW)


def test_the_tickets_of_one_client_differ_and_do_not_show_who_it_is() -> None:
    tickets = [OFFICE.issue(CLIENT, NOW + HOUR) for _ in range(3)]
    assert len({ticket.token for ticket in tickets}) == 3
    assert len({ticket.secret for ticket in tickets}) == 3
    assert all(CLIENT.raw[-32:] not in ticket.token for ticket in tickets)


def test_a_token_fits_the_limit_for_the_longest_peer_id() -> None:
    longest = PeerId(b"\x00\x3e" + bytes(62))
    assert len(OFFICE.issue(longest, NOW).token) <= MAX_TOKEN


def test_the_magic_is_what_no_other_protocol_on_the_port_starts_with() -> None:
    assert MAGIC[0] not in {0x13, 0x16, 0x00, 0x01}  # multistream, TLS, STUN


@pytest.mark.parametrize(
    "head",
    [
        b"",
        MAGIC[:-1],
        MAGIC,
        b"LATPIPE\x02" + b"\x40",
        b"GET / HTT",
        MAGIC + b"\x00",
        MAGIC + bytes((MAX_TOKEN + 1,)),
        MAGIC + b"\xff",
    ],
)
def test_a_head_that_is_none_breaks_the_protocol(head: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        rest_of_preface(head)


@given(st.integers(0, len(rest(PREFACE)) - 1))
def test_a_truncated_preface_is_refused(length: int) -> None:
    with pytest.raises(LinkRefusedError):
        check_preface(OFFICE, rest(PREFACE)[:length], NOW)


@given(st.binary(max_size=HEAD_BYTES) | st.binary(max_size=4).map(lambda tail: MAGIC + tail))
def test_any_head_is_a_length_within_the_limit_or_breaks_the_protocol(head: bytes) -> None:
    try:
        length = rest_of_preface(head)
    except RemoteProtocolError:
        return
    assert NONCE_BYTES + MAC_BYTES < length <= MAX_TOKEN + NONCE_BYTES + MAC_BYTES


@given(st.binary(max_size=MAX_TOKEN + NONCE_BYTES + MAC_BYTES))
def test_arbitrary_bytes_open_no_pipe(data: bytes) -> None:
    with pytest.raises(LinkRefusedError):
        check_preface(OFFICE, data, NOW)


@given(st.binary(max_size=2 * ANSWER_BYTES))
def test_arbitrary_bytes_are_no_answer(data: bytes) -> None:
    with pytest.raises(NetworkError) as caught:
        check_answer(TICKET, NONCE, data)
    assert type(caught.value) in {RemoteProtocolError, LinkRefusedError, NetworkError}


@given(st.integers(min_value=8, max_value=8 * ANSWER_BYTES - 1))
def test_an_answer_with_one_bit_changed_comes_from_somebody_else(bit: int) -> None:
    answer = check_preface(OFFICE, rest(PREFACE), NOW)[1]
    mangled = answer[:1] + flip(answer[1:], bit)
    with pytest.raises(RemoteProtocolError, match="somebody else"):
        check_answer(TICKET, NONCE, mangled)


def test_an_answer_is_good_for_one_nonce_only() -> None:
    answer = check_preface(OFFICE, rest(PREFACE), NOW)[1]
    with pytest.raises(RemoteProtocolError, match="somebody else"):
        check_answer(TICKET, bytes(NONCE_BYTES), answer)


def test_the_clients_own_code_sent_back_is_no_answer() -> None:
    with pytest.raises(RemoteProtocolError, match="somebody else"):
        check_answer(TICKET, NONCE, bytes((Status.OK,)) + PREFACE[-MAC_BYTES:])


def test_a_peer_that_does_not_know_the_link_is_told_from_a_busy_one() -> None:
    with pytest.raises(LinkRefusedError, match="does not know") as caught:
        check_answer(TICKET, NONCE, encode_refusal(Status.REFUSED))
    assert not isinstance(caught.value, PeerBusyError)
    with pytest.raises(PeerBusyError, match="no more pipes"):
        check_answer(TICKET, NONCE, encode_refusal(Status.BUSY))
