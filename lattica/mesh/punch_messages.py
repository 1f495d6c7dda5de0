"""The messages of ``/lattica/punch/1.0.0``, as data and as bytes. Pure.

What a peer sends is read strictly where the punch depends on it, and what is superfluous is dropped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from google.protobuf.message import DecodeError

from lattica._proto import punch_pb2
from lattica.errors import RemoteProtocolError
from lattica.mesh.stun import Endpoint
from lattica.mesh.stun_report import MAX_PORT_STEP, NatMapping

PUNCH_PROTOCOL = "/lattica/punch/1.0.0"
MAX_PUNCH_MESSAGE = 2048
"""Bytes of a message; a CONNECT with six IPv6 addresses takes about 350."""
MAX_ROUNDS = 3
"""Rounds of one punch; 97.6% of DCUtR's successes are at the first (arXiv 2510.27500)."""
MAX_HOSTS = 6
"""Interface addresses taken from a peer."""
MAX_REASON = 200
"""Characters of a peer's reason that are passed on; what a terminal might obey is left out."""


class Outcome(Enum):
    """How a punch ends."""

    OPENED = "opened"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one side brings to a round: a local port and what it knows of it.

    Attributes:
        mapped: The port as a STUN server saw it last.
        mapping: How the NAT maps, or ``None`` if that is not known.
        port_step: See `lattica.mesh.stun_report.NatReport`.
        hosts: The port at the addresses of the machine's interfaces, `MAX_HOSTS` at most.
    """

    mapped: Endpoint
    mapping: NatMapping | None
    port_step: int | None
    hosts: tuple[Endpoint, ...] = ()

    @property
    def is_hard(self) -> bool:
        """Whether a connection to a new endpoint comes from a new port."""
        return self.mapping not in {None, NatMapping.ENDPOINT_INDEPENDENT}

    @property
    def is_random(self) -> bool:
        """Whether nobody can tell which port that will be."""
        return self.is_hard and not self.port_step


@dataclass(frozen=True, slots=True)
class Connect:
    """One side's part in a round.

    Attributes:
        attempt: Number of the round, from 1.
        offer: Its port.
        held: Seconds that the answerer kept the initiator waiting for it.
    """

    attempt: int
    offer: Offer
    held: float = 0.0


@dataclass(frozen=True, slots=True)
class Sync:
    """Dial now; ``attempt`` is the number of the round."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Result:
    """The punch is over."""

    outcome: Outcome
    reason: str = ""


PunchMessage: TypeAlias = Connect | Sync | Result

_MAPPINGS = {
    None: punch_pb2.PUNCH_MAPPING_UNSPECIFIED,
    NatMapping.ENDPOINT_INDEPENDENT: punch_pb2.PUNCH_MAPPING_ENDPOINT_INDEPENDENT,
    NatMapping.ADDRESS_DEPENDENT: punch_pb2.PUNCH_MAPPING_ADDRESS_DEPENDENT,
    NatMapping.ADDRESS_AND_PORT_DEPENDENT: punch_pb2.PUNCH_MAPPING_ADDRESS_AND_PORT_DEPENDENT,
}
_OUTCOMES = {
    Outcome.OPENED: punch_pb2.PUNCH_OUTCOME_OPENED,
    Outcome.FAILED: punch_pb2.PUNCH_OUTCOME_FAILED,
    Outcome.REFUSED: punch_pb2.PUNCH_OUTCOME_REFUSED,
}


def encode_punch(message: PunchMessage) -> bytes:
    """The message as bytes."""
    wire = punch_pb2.PunchMessage()
    match message:
        case Connect(attempt, offer, held):
            wire.connect.attempt = attempt
            wire.connect.mapped.CopyFrom(_encode_endpoint(offer.mapped))
            wire.connect.mapping = _MAPPINGS[offer.mapping]
            if offer.port_step is not None:
                wire.connect.port_step = offer.port_step
            wire.connect.hosts.extend(map(_encode_endpoint, offer.hosts[:MAX_HOSTS]))
            wire.connect.held_us = round(held * 1e6)
        case Sync(attempt):
            wire.sync.attempt = attempt
        case Result(outcome, reason):
            wire.result.outcome = _OUTCOMES[outcome]
            wire.result.reason = reason[:MAX_REASON]
    return wire.SerializeToString()


def decode_punch(data: bytes) -> PunchMessage:
    """Read a message.

    Raises:
        RemoteProtocolError: It is malformed or makes no sense.
    """
    if len(data) > MAX_PUNCH_MESSAGE:
        raise RemoteProtocolError("a punch message that is too long")
    wire = punch_pb2.PunchMessage()
    try:
        wire.ParseFromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("a malformed punch message") from error
    match wire.WhichOneof("body"):
        case "connect":
            return Connect(_attempt(wire.connect.attempt), _decode_offer(wire.connect), wire.connect.held_us / 1e6)
        case "sync":
            return Sync(_attempt(wire.sync.attempt))
        case "result":
            return _decode_result(wire.result)
        case _:
            raise RemoteProtocolError("an empty punch message")


def _attempt(number: int) -> int:
    if not 0 < number <= MAX_ROUNDS:
        raise RemoteProtocolError(f"round {number} of a punch")
    return number


def _decode_offer(wire: punch_pb2.PunchConnect) -> Offer:
    mappings = {number: mapping for mapping, number in _MAPPINGS.items()}
    mapped = _decode_endpoint(wire.mapped)
    if mapped is None or wire.mapping not in mappings:
        raise RemoteProtocolError("a CONNECT without a usable address or mapping")
    step = wire.port_step if wire.HasField("port_step") and abs(wire.port_step) <= MAX_PORT_STEP else None
    return Offer(
        mapped=mapped, mapping=mappings[wire.mapping], port_step=step, hosts=_decode_hosts(wire.hosts[:MAX_HOSTS])
    )


def _decode_hosts(wires: Sequence[punch_pb2.PunchEndpoint]) -> tuple[Endpoint, ...]:
    return tuple(endpoint for wire in wires if (endpoint := _decode_endpoint(wire)) is not None)


def _decode_result(wire: punch_pb2.PunchResult) -> Result:
    outcomes = {number: outcome for outcome, number in _OUTCOMES.items()}
    if wire.outcome not in outcomes:
        raise RemoteProtocolError("a punch result without an outcome")
    return Result(outcomes[wire.outcome], "".join(char for char in wire.reason[:MAX_REASON] if char.isprintable()))


def _encode_endpoint(endpoint: Endpoint) -> punch_pb2.PunchEndpoint:
    return punch_pb2.PunchEndpoint(host=endpoint.host, port=endpoint.port)


def _decode_endpoint(wire: punch_pb2.PunchEndpoint) -> Endpoint | None:
    try:
        ip = ipaddress.ip_address(wire.host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return None
        ip = ip.ipv4_mapped or ip
    return Endpoint(str(ip), wire.port) if 0 < wire.port < 1 << 16 else None
