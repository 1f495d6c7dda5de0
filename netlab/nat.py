"""Kinds of NAT, in the words of RFC 4787 (UDP) and RFC 5382 (TCP)."""

from dataclasses import dataclass
from enum import Enum


class Mapping(Enum):
    """When two flows from one internal endpoint share an external port (RFC 4787, section 4.1)."""

    EIM = "endpoint-independent"
    ADM = "address-dependent"
    APDM = "address and port-dependent"


class Filtering(Enum):
    """Who may send to an external port (RFC 4787, section 5)."""

    EIF = "endpoint-independent"
    ADF = "address-dependent"
    APDF = "address and port-dependent"


class Ports(Enum):
    """How a new mapping gets its external port (RFC 4787, section 4.2)."""

    PRESERVED = "preserved"  # the internal port, or a random one where another machine has it
    SEQUENTIAL = "sequential"  # the last one plus one, whatever the internal port
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class NatKind:
    """One combination of behaviours; all 27 can be built, `Nat` names the ones seen in the wild."""

    mapping: Mapping
    filtering: Filtering
    ports: Ports


class Nat(Enum):
    """The NATs people sit behind."""

    EIM_EIF = NatKind(Mapping.EIM, Filtering.EIF, Ports.PRESERVED)
    EIM_ADF = NatKind(Mapping.EIM, Filtering.ADF, Ports.PRESERVED)
    EIM_APDF = NatKind(Mapping.EIM, Filtering.APDF, Ports.PRESERVED)
    APDM_APDF_RANDOM = NatKind(Mapping.APDM, Filtering.APDF, Ports.RANDOM)
    APDM_APDF_SEQUENTIAL = NatKind(Mapping.APDM, Filtering.APDF, Ports.SEQUENTIAL)

    @property
    def kind(self) -> NatKind:
        """The behaviours behind the name."""
        return self.value

    @property
    def mapping(self) -> Mapping:
        """When flows share an external port."""
        return self.value.mapping

    @property
    def filtering(self) -> Filtering:
        """Who may send to an external port."""
        return self.value.filtering

    @property
    def ports(self) -> Ports:
        """How an external port is chosen."""
        return self.value.ports
