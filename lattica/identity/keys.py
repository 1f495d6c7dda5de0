"""The node's Ed25519 identity key, and the file that keeps it.

The file holds libp2p's protobuf ``PrivateKey``, as other libp2p programs write it.
Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md#keys
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError, EncodeError
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from lattica._proto import identity_pb2
from lattica.errors import KeyFileError
from lattica.identity.peer_id import PeerId

MAX_KEY_FILE = 4096
"""Bytes read of a key file at most; a real one has 68."""

_SEED_BYTES = 32
_KEY_BYTES = 64
_SIGNATURE_BYTES = 64


class IdentityKey:
    """An Ed25519 key pair and what follows from it: the peer ID, signatures, the node CA's key."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key = private_key.public_key()
        self._signing_key = crypto_sign_seed_keypair(self.seed)[1]
        self.peer_id = PeerId.from_public_key(self.public_key)

    @classmethod
    def generate(cls) -> Self:
        """A new random identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The identity of a 32-byte seed."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return self._private_key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of ``message``; by libsodium, which takes two thirds of OpenSSL's time."""
        return crypto_sign(message, self._signing_key)[:_SIGNATURE_BYTES]

    def derive_p256(self, purpose: bytes) -> ec.EllipticCurvePrivateKey:
        """The P-256 key that belongs to this identity and purpose; the same one after each restart.

        HKDF-SHA256 over the seed, 48 bytes reduced modulo the group order (FIPS 186-5, A.2.1).
        """
        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        stream = HKDF(SHA256(), length=48, salt=None, info=b"lattica " + purpose).derive(self.seed)
        return ec.derive_private_key(int.from_bytes(stream) % (order - 1) + 1, ec.SECP256R1())

    def to_bytes(self) -> bytes:
        """libp2p's protobuf form of the private key."""
        data = self.seed + self.public_key.public_bytes_raw()
        return identity_pb2.PrivateKey(type=identity_pb2.KEY_TYPE_ED25519, data=data).SerializeToString()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read what `to_bytes` wrote; raises `ValueError` if it is no Ed25519 private key."""
        message = identity_pb2.PrivateKey()
        try:
            message.ParseFromString(raw)
        except DecodeError as error:
            raise ValueError("not a libp2p private key") from error
        if message.type != identity_pb2.KEY_TYPE_ED25519 or len(message.data) != _KEY_BYTES:
            raise ValueError("not an Ed25519 private key")
        key = cls.from_seed(message.data[:_SEED_BYTES])
        if key.public_key.public_bytes_raw() != message.data[_SEED_BYTES:]:
            raise ValueError("its private and public halves do not match")
        return key

    def __repr__(self) -> str:
        return f"IdentityKey({self.peer_id})"


def load_or_create_key(path: Path) -> IdentityKey:
    """The identity in ``path``; a new one, written there with mode 0600, if there is no file.

    Two processes that start at once end up with the same key: the file appears complete or not at all, and the
    first one stays.

    Raises:
        KeyFileError: The file cannot be read or written, is no key, belongs to another user, or others may read it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            return _load(path)
        _create(path, IdentityKey.generate())
        return _load(path)
    except OSError as error:
        raise KeyFileError(path, f"{error.strerror or error}; check the path and its permissions") from error


def _load(path: Path) -> IdentityKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_owner(path, os.fstat(descriptor))
        raw = os.read(descriptor, MAX_KEY_FILE + 1)
    finally:
        os.close(descriptor)
    try:
        if len(raw) > MAX_KEY_FILE:
            raise ValueError("it is too large to be a key")
        return IdentityKey.from_bytes(raw)
    except (ValueError, EncodeError) as error:
        raise KeyFileError(path, f"{error}; restore it from a backup, or move it away to get a new identity") from error


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(path, "it is not a regular file")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise KeyFileError(path, f"it belongs to user {status.st_uid}, not to you; `chown` it or use your own key")
    if status.st_mode & 0o077:
        raise KeyFileError(path, f"others can read it (mode {status.st_mode & 0o777:o}); run `chmod 600 {path}`")


def _create(path: Path, key: IdentityKey) -> None:
    """Write ``key`` to a temporary file and link it into place, unless a file got there first."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.to_bytes())
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
