"""Signed statements that a peer offers a service name."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from lattica._proto import replicas_pb2
from lattica.errors import RemoteProtocolError, UsageError
from lattica.identity import IdentityKey, PeerId, SealedPayload, peek, seal, unseal
from lattica.rpc.names import check_name
from lattica.rpc.replicas.limits import (
    INSTANCE_BYTES,
    MAX_CAPACITY,
    MAX_LEASE_S,
    MAX_LOAD,
    MAX_RECORD_BYTES,
)

RECORD_DOMAIN: Final = b"lattica-service-record"
"""Domain string: a record's signature means nothing in another protocol."""
RECORD_TYPE: Final = b"/lattica/service-record"
"""Payload type of the envelope."""

_KEY_PREFIX: Final = b"lattica-service:"
_SHA2_256: Final = b"\x12\x20"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """One replica's offer of a name, as it was signed.

    Attributes:
        peer_id: The replica: who signed.
        name: What it offers.
        instance: Differs after a restart.
        sequence: Grows with each record of an instance.
        issued_at_ms: When it was signed, by the signer's clock.
        lease_ms: For how long it holds; 0 is a goodbye.
        capacity: Calls that it runs at once.
        load: Calls that ran or waited there.
        envelope: The signed bytes, to pass on.
    """

    peer_id: PeerId
    name: str
    instance: bytes
    sequence: int
    issued_at_ms: int
    lease_ms: int
    capacity: int
    load: float
    envelope: bytes

    @property
    def is_goodbye(self) -> bool:
        """Whether it withdraws the name."""
        return self.lease_ms == 0

    def supersedes(self, other: ServiceRecord) -> bool:
        """Whether it is the newer one of two records of a replica."""
        if self.instance == other.instance:
            return self.sequence > other.sequence
        return self.issued_at_ms > other.issued_at_ms


def service_key(name: str) -> bytes:
    """The multihash under which the DHT has the providers of a name."""
    return _SHA2_256 + hashlib.sha256(_KEY_PREFIX + name.encode()).digest()


def seal_record(
    key: IdentityKey,
    *,
    name: str,
    instance: bytes,
    sequence: int,
    issued_at_ms: int,
    lease_ms: int,
    capacity: int,
    load: float,
) -> ServiceRecord:
    """Sign an offer of ours. Its load is brought into the bounds that others accept."""
    load = min(max(0.0, load), MAX_LOAD) if math.isfinite(load) else 0.0
    message = replicas_pb2.ServiceRecord(
        name=name, instance=instance, sequence=sequence, issued_at_ms=issued_at_ms, lease_ms=lease_ms,
        capacity=capacity, load=load,
    )  # fmt: skip
    return ServiceRecord(
        peer_id=key.peer_id, name=name, instance=instance, sequence=sequence, issued_at_ms=issued_at_ms,
        lease_ms=lease_ms, capacity=capacity, load=load,
        envelope=seal(key, RECORD_DOMAIN, RECORD_TYPE, message.SerializeToString()),
    )  # fmt: skip


def unseal_record(envelope: bytes) -> ServiceRecord:
    """The record in a signed envelope, checked in itself; whether it is timely is for the `RecordBook`.

    Raises:
        RemoteProtocolError: It is too long, malformed, not properly signed, or says what no honest record says.
    """
    _check_length(envelope)
    return _read(unseal(envelope, RECORD_DOMAIN), envelope)


def peek_record(envelope: bytes) -> ServiceRecord:
    """What an envelope says, its signature **unchecked**: to see whether it is worth that.

    Raises:
        RemoteProtocolError: As `unseal_record`, but for the signature.
    """
    _check_length(envelope)
    return _read(peek(envelope), envelope)


def _check_length(envelope: bytes) -> None:
    if len(envelope) > MAX_RECORD_BYTES:
        raise RemoteProtocolError(f"service record of {len(envelope)} bytes, {MAX_RECORD_BYTES} allowed")


def _read(sealed: SealedPayload, envelope: bytes) -> ServiceRecord:
    if sealed.payload_type != RECORD_TYPE:
        raise RemoteProtocolError("signed envelope that holds no service record", sealed.signer)
    message = replicas_pb2.ServiceRecord()
    try:
        message.ParseFromString(sealed.payload)
        check_name(message.name)
    except (DecodeError, UsageError) as error:
        raise RemoteProtocolError("malformed service record", sealed.signer) from error
    if problem := _problem(message):
        raise RemoteProtocolError(f"service record with {problem}", sealed.signer)
    return ServiceRecord(
        peer_id=sealed.signer, name=message.name, instance=message.instance, sequence=message.sequence,
        issued_at_ms=message.issued_at_ms, lease_ms=message.lease_ms, capacity=message.capacity, load=message.load,
        envelope=envelope,
    )  # fmt: skip


def _problem(message: replicas_pb2.ServiceRecord) -> str:
    if len(message.instance) != INSTANCE_BYTES:
        return f"an instance of {len(message.instance)} bytes"
    if not message.sequence:
        return "no sequence number"
    if message.lease_ms > MAX_LEASE_S * 1000:
        return f"a lease of {message.lease_ms} ms"
    if not 1 <= message.capacity <= MAX_CAPACITY:
        return f"a capacity of {message.capacity}"
    if not 0.0 <= message.load <= MAX_LOAD:  # also false for NaN
        return f"a load of {message.load}"
    return ""
