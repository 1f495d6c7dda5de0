"""Hosts, NATs and links on one Linux machine, for testing programs that talk across them."""

from netlab.errors import (
    CallStillRunningError,
    CommandError,
    LabError,
    LabUnavailableError,
    StrayProcessError,
)
from netlab.firewall import ONLY_TCP_443, STATEFUL, UDP_BLOCKED, Firewall, Unsolicited
from netlab.host import Host
from netlab.lab import Lab, open_lab
from netlab.leftovers import sweep
from netlab.link import Link
from netlab.nat import Filtering, Mapping, Nat, NatKind, Ports
from netlab.network import Network
from netlab.requirements import unavailable_reason
from netlab.router import Router
from netlab.shape import Shape

__all__ = [
    "ONLY_TCP_443",
    "STATEFUL",
    "UDP_BLOCKED",
    "CallStillRunningError",
    "CommandError",
    "Filtering",
    "Firewall",
    "Host",
    "Lab",
    "LabError",
    "LabUnavailableError",
    "Link",
    "Mapping",
    "Nat",
    "NatKind",
    "Network",
    "Ports",
    "Router",
    "Shape",
    "StrayProcessError",
    "Unsolicited",
    "open_lab",
    "sweep",
    "unavailable_reason",
]
