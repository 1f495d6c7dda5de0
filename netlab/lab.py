"""A lab: hosts, routers and networks on one machine, all gone at its end."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network

from netlab.addressing import CARRIER_LAN, HOME_LAN
from netlab.errors import LabError, LabUnavailableError
from netlab.firewall import Firewall, Unsolicited
from netlab.host import Host
from netlab.leftovers import remove_lab, sweep
from netlab.link import LinkSpace
from netlab.names import LabId, check_machine_name
from netlab.namespace import Namespace
from netlab.nat import Nat, NatKind
from netlab.network import Network
from netlab.policy import UDP_TIMEOUT
from netlab.requirements import unavailable_reason
from netlab.router import Router, RouterConfig
from netlab.shape import Shape
from netlab.uplink import Upstream, Wants

PERFECT = Shape()


class Lab:
    """Made by `open_lab`.

    Attributes:
        internet: The first public network, which machines are on unless told otherwise.
    """

    def __init__(self, ending: ExitStack) -> None:
        self._ending = ending
        self._id = LabId.new()
        ending.callback(remove_lab, self._id)  # at the very end: what could not be finished, or not be closed
        self._names: set[str] = set()
        self._networks = 0
        links = Namespace(self._id, "_links", ipv6=False)  # no machine can have that name
        ending.callback(links.close)
        self._space = LinkSpace(links)
        ending.callback(self._space.close)
        self.internet = self.network("internet")

    def network(self, name: str, *, link: Shape = PERFECT) -> Network:
        """Another public network, ``link`` away from the first one."""
        self._claim(name)
        network = Network(self._id, name, self._networks)
        self._ending.callback(network.close)
        if self._networks:
            network.join(self.internet, self._space, link)
        self._networks += 1
        return network

    def router(
        self,
        name: str,
        *,
        nat: Nat | NatKind | None = None,
        firewall: Firewall | None = None,
        upstream: Upstream | None = None,
        link: Shape = PERFECT,
        hairpin: bool = True,
        udp_timeout: int = UDP_TIMEOUT,
        unsolicited: Unsolicited = Unsolicited.DROP,
        lan: str | IPv4Network = HOME_LAN,
        ipv4: bool = True,
        ipv6: bool = False,
    ) -> Router:
        """A router for hosts, or other routers, that have it as their ``upstream``.

        Args:
            nat: What it does to IPv4; without one it routes public addresses. IPv6 is never translated.
            firewall: What else it filters.
            upstream: What it is plugged into; the internet by default.
            link: The cable there.
            hairpin: Whether machines inside reach each other by their external endpoints.
            udp_timeout: Seconds that an idle UDP mapping lasts.
            unsolicited: The answer to TCP from outside that nobody inside wants.
            lan: The network inside, behind a NAT; every home has the same one by default, as in life.
            ipv4: Whether it routes IPv4.
            ipv6: Whether it routes IPv6. What comes unasked is filtered, unless ``firewall`` says otherwise.
        """
        self._claim(name)
        config = RouterConfig(
            nat=nat, firewall=firewall, hairpin=hairpin, udp_timeout=udp_timeout, unsolicited=unsolicited,
            lan=IPv4Network(lan), ipv4=ipv4, ipv6=ipv6,
        )  # fmt: skip
        router = Router(self._id, name, config, self._space, upstream or self.internet, link)
        self._ending.callback(router.close)
        return router

    def carrier(
        self,
        name: str,
        *,
        nat: Nat | NatKind,
        upstream: Upstream | None = None,
        link: Shape = PERFECT,
        unsolicited: Unsolicited = Unsolicited.DROP,
        ipv4: bool = True,
        ipv6: bool = False,
    ) -> Router:
        """A provider's NAT for whole homes: a router with RFC 6598 addresses inside."""
        return self.router(
            name, nat=nat, upstream=upstream, link=link, unsolicited=unsolicited, lan=CARRIER_LAN, ipv4=ipv4, ipv6=ipv6
        )

    def host(
        self,
        name: str,
        *,
        nat: Nat | NatKind | None = None,
        cgnat: Nat | NatKind | None = None,
        firewall: Firewall | None = None,
        upstream: Upstream | None = None,
        link: Shape = PERFECT,
        ipv4: bool = True,
        ipv6: bool = False,
    ) -> Host:
        """A host; with ``nat`` or ``firewall`` it gets a router of its own, ``<name>-router``.

        Args:
            nat: The kind of its router's NAT.
            cgnat: The kind of a second NAT above that one, of a carrier's router called ``<name>-carrier``.
            firewall: What its router filters.
            upstream: What it, or its outermost router, is plugged into; the internet by default.
            link: The cable there; one between a host and a router made for it is perfect.
            ipv4: Whether it has IPv4.
            ipv6: Whether it has IPv6.
        """
        upstream = upstream or self.internet
        if cgnat is not None:
            upstream = self.carrier(f"{name}-carrier", nat=cgnat, upstream=upstream, link=link, ipv4=ipv4, ipv6=ipv6)
            link = PERFECT
        if nat is not None or firewall is not None:
            upstream = self.router(
                f"{name}-router", nat=nat, firewall=firewall, upstream=upstream, link=link, ipv4=ipv4, ipv6=ipv6
            )
            link = PERFECT
        self._claim(name)
        host = Host(self._id, name, Wants(ipv4=ipv4, ipv6=ipv6), self._space, upstream, link)
        self._ending.callback(host.close)
        return host

    def _claim(self, name: str) -> None:
        check_machine_name(name)
        if name in self._names:
            raise LabError(f"the lab has a machine called {name} already; names are for one each")
        self._names.add(name)


@contextmanager
def open_lab() -> Iterator[Lab]:
    """A new lab, empty but for the internet; at its end all its processes and namespaces are removed.

    Leftovers of labs whose process was killed are removed first.

    Raises:
        LabUnavailableError: This machine cannot run one.
        LabError: At the end: something inside was still running; it is stopped nevertheless.
    """
    if reason := unavailable_reason():
        raise LabUnavailableError(reason)
    sweep()
    with ExitStack() as ending:
        yield Lab(ending)
