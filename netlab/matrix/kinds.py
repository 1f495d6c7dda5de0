"""The kinds of places that a machine can be in, and which pairs of them there are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from netlab.errors import LabError
from netlab.firewall import STATEFUL, Firewall
from netlab.host import Host
from netlab.lab import Lab
from netlab.nat import Nat
from netlab.shape import Shape

HOME_NAT = Nat.EIM_APDF  # of a home behind a carrier's NAT, as most homes have


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What stands between a machine and the public network.

    Attributes:
        name: As given to ``--kinds``.
        nat: Of its own router.
        carrier: Of a carrier's router above that.
        firewall: Of its own router.
    """

    name: str
    nat: Nat | None = None
    carrier: Nat | None = None
    firewall: Firewall | None = None

    @property
    def open(self) -> bool:
        """Whether everybody can connect to a machine there."""
        return self.nat is None and self.firewall is None

    def host(self, lab: Lab, role: str, link: Shape) -> Host:
        """A machine of this kind, for ``alice`` or ``bob``, that hangs on the public network by this link."""
        name = f"{role}-{self.name}".lower().replace("_", "-")
        return lab.host(name, nat=self.nat, cgnat=self.carrier, firewall=self.firewall, link=link)


Pair = tuple[Kind, Kind]
"""Caller and called."""

_ALL = (
    Kind(name="none"),
    *(Kind(name=nat.name, nat=nat) for nat in Nat),
    *(Kind(name=f"CGNAT_{nat.name}", nat=HOME_NAT, carrier=nat) for nat in Nat),
    Kind(name="STATEFUL", firewall=STATEFUL),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}
"""By name, from the most open one on."""


def find_kind(name: str) -> Kind:
    """The kind of this name.

    Raises:
        LabError: There is none.
    """
    try:
        return KINDS[name]
    except KeyError:
        raise LabError(f"{name!r} is no kind; there are {', '.join(KINDS)}") from None


def all_pairs(kinds: Iterable[Kind]) -> list[Pair]:
    """Each kind with itself and with those after it."""
    return list(combinations_with_replacement(kinds, 2))


def parse_pair(text: str) -> Pair:
    """The pair that ``A:B`` names; A calls.

    Raises:
        LabError: It names none.
    """
    caller, colon, called = text.partition(":")
    if not colon:
        raise LabError(f"{text!r} is no pair; write two kinds with a colon between, such as none:EIM_APDF")
    return find_kind(caller), find_kind(called)


def batches(pairs: Sequence[Pair], rounds: int, most: int) -> list[list[Pair]]:
    """All runs, in order, cut where another kind calls and after ``most`` runs."""
    cut: list[list[Pair]] = []
    for pair in [*pairs] * rounds:
        if not cut or cut[-1][0][0] is not pair[0] or len(cut[-1]) == most:
            cut.append([])
        cut[-1].append(pair)
    return cut
