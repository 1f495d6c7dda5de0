"""The node's certificate authority: what it certifies, for whom, and that it outlives a restart."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.identity import IdentityKey, LinkKey, NodeAuthority, PeerId
from lattica.identity.authority import CLOCK_SKEW_S, LINK_CERTIFICATE_S, MAX_PUBLIC_KEY

SERVER = IdentityKey.from_seed(b"s" * 32)
CLIENT = IdentityKey.from_seed(b"c" * 32)
OTHER = IdentityKey.from_seed(b"o" * 32)
NOW = datetime.datetime(2030, 6, 1, tzinfo=datetime.UTC)
AUTHORITY = NodeAuthority(SERVER, now=NOW)
LINK_KEY = LinkKey()
LINK_CERTIFICATE = AUTHORITY.issue_link_certificate(LINK_KEY.public_der, CLIENT.peer_id, now=NOW)

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


def spki(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def link_certificate() -> x509.Certificate:
    return x509.load_der_x509_certificate(LINK_CERTIFICATE)


def verified_client(leaf: x509.Certificate, authority: x509.Certificate, now: datetime.datetime) -> list[str]:
    """The DNS names that a strict X.509 verifier (not the code under test) finds proven."""
    verifier = PolicyBuilder().store(Store([authority])).time(now).build_client_verifier()
    subjects = verifier.verify(leaf, []).subjects
    assert subjects is not None
    return [name.value for name in subjects if isinstance(name, x509.DNSName)]


def ca_of(authority: NodeAuthority) -> x509.Certificate:
    return x509.load_der_x509_certificate(authority.certificate_der)


def test_a_link_certificate_names_the_client_and_verifies_under_the_authority() -> None:
    leaf = link_certificate()
    assert verified_client(leaf, ca_of(AUTHORITY), NOW) == [CLIENT.peer_id.dns_label]
    assert PeerId.parse(CLIENT.peer_id.dns_label) == CLIENT.peer_id
    assert leaf.public_key() == serialization.load_der_public_key(LINK_KEY.public_der)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_server_certificate_verifies_for_the_nodes_own_name() -> None:
    leaf = x509.load_pem_x509_certificate(AUTHORITY.server.certificate)
    name = x509.DNSName(SERVER.peer_id.dns_label)
    PolicyBuilder().store(Store([ca_of(AUTHORITY)])).time(NOW).build_server_verifier(name).verify(leaf, [])
    key = serialization.load_pem_private_key(AUTHORITY.server.private_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == leaf.public_key()


def test_the_server_certificate_outlives_any_uptime() -> None:
    leaf = x509.load_pem_x509_certificate(AUTHORITY.server.certificate)
    assert leaf.not_valid_after_utc > NOW + datetime.timedelta(days=9 * 365)
    assert ca_of(AUTHORITY).not_valid_after_utc >= leaf.not_valid_after_utc


@pytest.mark.parametrize("skew", [-CLOCK_SKEW_S + 60, 0.0, LINK_CERTIFICATE_S + CLOCK_SKEW_S - 60])
def test_a_link_certificate_is_good_within_its_lifetime_and_the_clocks_skew(skew: float) -> None:
    assert verified_client(link_certificate(), ca_of(AUTHORITY), NOW + datetime.timedelta(seconds=skew))


@pytest.mark.parametrize("skew", [-CLOCK_SKEW_S - 60, LINK_CERTIFICATE_S + CLOCK_SKEW_S + 60])
def test_a_link_certificate_is_worthless_outside_of_that(skew: float) -> None:
    with pytest.raises(VerificationError):
        verified_client(link_certificate(), ca_of(AUTHORITY), NOW + datetime.timedelta(seconds=skew))


def test_the_authority_is_the_same_after_a_restart() -> None:
    """Old certificates verify under the new authority certificate, new ones under the old: pins stay good."""
    later = NOW + datetime.timedelta(hours=1)
    restarted = NodeAuthority(IdentityKey.from_bytes(SERVER.to_bytes()), now=later)
    assert ca_of(restarted).public_key() == ca_of(AUTHORITY).public_key()
    assert verified_client(link_certificate(), ca_of(restarted), later)
    new = x509.load_der_x509_certificate(
        restarted.issue_link_certificate(LINK_KEY.public_der, CLIENT.peer_id, now=later)
    )
    assert verified_client(new, ca_of(AUTHORITY), later)


def test_another_nodes_authority_does_not_vouch() -> None:
    other = NodeAuthority(OTHER, now=NOW)
    assert ca_of(other).public_key() != ca_of(AUTHORITY).public_key()
    with pytest.raises(VerificationError):
        verified_client(link_certificate(), ca_of(other), NOW)


def test_an_authority_with_our_name_and_another_key_does_not_vouch() -> None:
    """Names prove nothing: an impostor may call its authority as it likes."""
    impostor = NodeAuthority(OTHER, now=NOW)
    impostor._name = AUTHORITY._name
    forged = x509.load_der_x509_certificate(
        impostor.issue_link_certificate(LINK_KEY.public_der, CLIENT.peer_id, now=NOW)
    )
    with pytest.raises(VerificationError):
        verified_client(forged, ca_of(AUTHORITY), NOW)


def test_a_link_certificate_cannot_certify_others() -> None:
    client_key = ec.generate_private_key(ec.SECP256R1())
    leaf = x509.load_der_x509_certificate(
        AUTHORITY.issue_link_certificate(spki(client_key.public_key()), CLIENT.peer_id, now=NOW)
    )
    forger = NodeAuthority(OTHER, now=NOW)
    forger._key, forger._name = client_key, leaf.subject
    forged = x509.load_der_x509_certificate(forger.issue_link_certificate(LINK_KEY.public_der, SERVER.peer_id, now=NOW))
    verifier = PolicyBuilder().store(Store([ca_of(AUTHORITY)])).time(NOW).build_client_verifier()
    with pytest.raises(VerificationError):
        verifier.verify(forged, [leaf])


def test_the_authoritys_key_is_neither_the_identity_nor_another_purposes_key() -> None:
    keys = [SERVER.derive_p256(b"a"), SERVER.derive_p256(b"b"), OTHER.derive_p256(b"a"), SERVER.derive_p256(b"a")]
    numbers = [key.private_numbers().private_value for key in keys]
    assert numbers[0] == numbers[3]
    assert len(set(numbers)) == 3


def wrong_keys() -> list[bytes]:
    point = bytearray(LINK_KEY.public_der)
    point[-1] ^= 1  # off the curve
    return [
        b"",
        b"\x00",
        bytes(91),
        bytes(point),
        LINK_KEY.public_der[:-1],
        LINK_KEY.public_der + b"\x00",
        bytes(MAX_PUBLIC_KEY + 1),
        spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
        spki(ed25519.Ed25519PrivateKey.generate().public_key()),
        spki(rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()),
    ]


@pytest.mark.parametrize("public_key", wrong_keys())
def test_a_wrong_or_malformed_key_is_refused_and_its_sender_named(public_key: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        AUTHORITY.issue_link_certificate(public_key, CLIENT.peer_id)
    assert caught.value.peer_id == str(CLIENT.peer_id)


@given(st.data())
def test_a_damaged_key_never_raises_anything_else(data: st.DataObject) -> None:
    damaged = bytearray(LINK_KEY.public_der)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        AUTHORITY.issue_link_certificate(bytes(damaged), CLIENT.peer_id, now=NOW)
    except RemoteProtocolError:
        return


def test_the_clients_side_is_made_of_what_the_server_answered() -> None:
    leaf = link_certificate()
    identity = LINK_KEY.tls_identity(
        SERVER.peer_id, leaf.public_bytes(serialization.Encoding.DER), AUTHORITY.certificate_der
    )
    assert x509.load_pem_x509_certificate(identity.certificate) == leaf
    assert x509.load_pem_x509_certificate(identity.authority) == ca_of(AUTHORITY)
    key = serialization.load_pem_private_key(identity.private_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == leaf.public_key()


def test_an_answer_for_another_key_is_refused() -> None:
    leaf = AUTHORITY.issue_link_certificate(LinkKey().public_der, CLIENT.peer_id, now=NOW)
    with pytest.raises(RemoteProtocolError, match="another key"):
        LINK_KEY.tls_identity(SERVER.peer_id, leaf, AUTHORITY.certificate_der)


def test_an_answer_of_another_authority_is_refused() -> None:
    leaf = AUTHORITY.issue_link_certificate(LINK_KEY.public_der, CLIENT.peer_id, now=NOW)
    with pytest.raises(RemoteProtocolError, match="malformed certificates") as caught:
        LINK_KEY.tls_identity(SERVER.peer_id, leaf, NodeAuthority(OTHER).certificate_der)
    assert isinstance(caught.value.__cause__, InvalidSignature | ValueError)


@given(st.data())
def test_a_damaged_answer_never_raises_anything_else(data: st.DataObject) -> None:
    parts = [bytearray(LINK_CERTIFICATE), bytearray(AUTHORITY.certificate_der)]
    for _ in range(data.draw(st.integers(1, 4))):
        part = data.draw(st.sampled_from(parts))
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    try:
        identity = LINK_KEY.tls_identity(SERVER.peer_id, bytes(parts[0]), bytes(parts[1]))
    except RemoteProtocolError:
        return
    assert x509.load_pem_x509_certificate(identity.certificate).public_key() == link_certificate().public_key()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_an_answer_of_arbitrary_bytes_is_refused(leaf: bytes, authority: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        LINK_KEY.tls_identity(SERVER.peer_id, leaf, authority)
