"""Each node is its own certificate authority.

A link between two peers is gRPC with mutual TLS. gRPC's native TLS wants to know its roots in advance, so the
server of a link certifies the client's key under its own authority, and the client pins that authority; both
happen over a libp2p stream on which the peer IDs are already proven. See docs/adr/0001-data-plane.md.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lattica.errors import RemoteProtocolError
from lattica.identity.keys import IdentityKey
from lattica.identity.peer_id import PeerId

LINK_CERTIFICATE_S = 24 * 3600.0
"""Seconds for which a link certificate is valid."""
CLOCK_SKEW_S = 24 * 3600.0
"""Seconds by which the clocks of two peers may differ."""
MAX_PUBLIC_KEY = 256
"""Bytes of a SubjectPublicKeyInfo accepted at most; P-256 takes 91."""
_AUTHORITY_YEARS = 20
_SERVER_YEARS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """What one side of a TLS connection shows and trusts; all PEM.

    Attributes:
        private_key: PKCS #8.
        certificate: Our certificate.
        authority: The authority that the other side's certificate must come from.
    """

    private_key: bytes
    certificate: bytes
    authority: bytes


class NodeAuthority:
    """The node's certificate authority and its server certificate.

    Its key follows from the identity key, so that links outlive a restart: certificates that it issued before
    still count, and peers that pinned it still recognise it.
    """

    def __init__(self, key: IdentityKey, *, now: datetime.datetime | None = None) -> None:
        now = now or datetime.datetime.now(datetime.UTC)
        self.peer_id = key.peer_id
        self._key = key.derive_p256(b"node authority v1")
        self._name = _name(f"lattica {key.peer_id}")
        self._certificate = self._issue_authority(now)
        server_key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            server_key.public_key(),
            key.peer_id,
            now,
            datetime.timedelta(days=365 * _SERVER_YEARS),
            ExtendedKeyUsageOID.SERVER_AUTH,
        )
        self.server = TlsIdentity(
            private_key=private_pem(server_key),
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            authority=self._certificate.public_bytes(serialization.Encoding.PEM),
        )

    @property
    def certificate_der(self) -> bytes:
        """The authority's certificate, for a peer to pin."""
        return self._certificate.public_bytes(serialization.Encoding.DER)

    def issue_link_certificate(
        self, public_key_der: bytes, client: PeerId, *, now: datetime.datetime | None = None
    ) -> bytes:
        """A client certificate (DER) that says: the holder of this P-256 key is ``client``.

        Raises:
            RemoteProtocolError: ``public_key_der`` is not a P-256 SubjectPublicKeyInfo.
        """
        try:
            if len(public_key_der) > MAX_PUBLIC_KEY:
                raise ValueError("too long")
            key = serialization.load_der_public_key(public_key_der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise RemoteProtocolError("link request with a malformed public key", client) from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise RemoteProtocolError("link request with a key that is not P-256", client)
        now = now or datetime.datetime.now(datetime.UTC)
        lifetime = datetime.timedelta(seconds=LINK_CERTIFICATE_S)
        certificate = self._issue(key, client, now, lifetime, ExtendedKeyUsageOID.CLIENT_AUTH)
        return certificate.public_bytes(serialization.Encoding.DER)

    def _issue_authority(self, now: datetime.datetime) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(seconds=CLOCK_SKEW_S))
            .not_valid_after(now + datetime.timedelta(days=365 * _AUTHORITY_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        subject: PeerId,
        now: datetime.datetime,
        lifetime: datetime.timedelta,
        usage: x509.ObjectIdentifier,
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject.dns_label))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(seconds=CLOCK_SKEW_S))
            .not_valid_after(now + lifetime + datetime.timedelta(seconds=CLOCK_SKEW_S))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject.dns_label)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


class LinkKey:
    """The P-256 key that a node shows as a client, fresh in each process; one serves all its links."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo, to be certified by the other side."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def tls_identity(self, server: PeerId, certificate_der: bytes, authority_der: bytes) -> TlsIdentity:
        """The client's side of a link, out of what the server answered.

        Raises:
            RemoteProtocolError: The certificates are malformed or not for this key.
        """
        try:
            certificate = x509.load_der_x509_certificate(certificate_der)
            authority = x509.load_der_x509_certificate(authority_der)
            certificate.verify_directly_issued_by(authority)
        except Exception as error:  # x509 raises a dozen kinds for hostile bytes
            raise RemoteProtocolError("link response with malformed certificates", server) from error
        if certificate.public_key() != self._key.public_key():
            raise RemoteProtocolError("link response with a certificate for another key", server)
        return TlsIdentity(
            private_key=private_pem(self._key),
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            authority=authority.public_bytes(serialization.Encoding.PEM),
        )


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM, not encrypted: for gRPC, never for a file."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
