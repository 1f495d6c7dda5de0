"""A router with a NAT, a firewall, both or neither, and the LAN behind it."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netlab.addressing import HOME_LAN, LanPlan, Lease
from netlab.configure_router import configure
from netlab.errors import LabError
from netlab.firewall import Firewall, Unsolicited
from netlab.link import Link, LinkSpace, Plug
from netlab.names import LabId
from netlab.nat import Nat, NatKind
from netlab.policy import UDP_TIMEOUT, RouterPolicy, Translation
from netlab.shape import Shape
from netlab.uplink import Uplink, Upstream, Wants, neighbour

WAN, LAN = "wan", "lan"
LAN_MAC = "02:00:00:03:00:01"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """How a router is to behave; see `netlab.lab.Lab.router`."""

    nat: Nat | NatKind | None = None
    firewall: Firewall | None = None
    hairpin: bool = True
    udp_timeout: int = UDP_TIMEOUT
    unsolicited: Unsolicited = Unsolicited.DROP
    lan: IPv4Network = HOME_LAN
    ipv4: bool = True
    ipv6: bool = False

    @property
    def wants(self) -> Wants:
        """What it needs of its upstream."""
        return Wants(ipv4=self.ipv4, ipv6=self.ipv6, inside=True)


class Router(Upstream):
    """Machines behind it are on one LAN, as on a switch."""

    def __init__(
        self, lab: LabId, name: str, config: RouterConfig, space: LinkSpace, upstream: Upstream, shape: Shape
    ) -> None:
        if config.nat is not None and not config.ipv4:
            raise LabError(f"{name} has a NAT but no IPv4 to translate; use firewall= for IPv6 alone")
        self._config = config
        super().__init__(lab, name, ipv6=config.ipv6)
        self._uplink = Uplink(space, Plug(self, WAN), upstream, config.wants, shape)
        self._plan = LanPlan(self._inside4(), self._uplink.lease.inside6)
        self._make_lan()
        self._configure(replace=False)

    def __repr__(self) -> str:
        return f"<Router {self.name} {self._config.nat} {self._uplink.lease.ipv4}>"

    @property
    def uplink(self) -> Link:
        """The link to its upstream."""
        return self._uplink.link

    @property
    def access(self) -> Link:
        """The link by which everything behind it hangs on a public network."""
        upstream = self._uplink.upstream
        return upstream.access if isinstance(upstream, Router) else self.uplink

    @property
    def above(self) -> "tuple[Router, ...]":
        """The routers between it and its public network, the nearest first."""
        upstream = self._uplink.upstream
        return (upstream, *upstream.above) if isinstance(upstream, Router) else ()

    @property
    def external_address(self) -> IPv4Address:
        """Its own address outside, which may be private itself, behind a carrier's NAT."""
        if self._uplink.lease.ipv4 is None:
            raise LabError(f"{self.name} has no IPv4")
        return self._uplink.lease.ipv4.ip

    @property
    def public_address(self) -> IPv4Address:
        """What the public sees of the machines behind it."""
        return self._uplink.upstream.seen_as(self.external_address)

    def reboot(self) -> None:
        """Forget all mappings and tracked flows at once; connections through a NAT do not survive it."""
        self._configure()

    def change_address(self) -> None:
        """Get a new IPv4 address outside, as from a provider overnight; all mappings are lost."""
        if self._config.nat is None:
            raise LabError(f"{self.name} has no NAT: its inside is numbered from outside and cannot change alone")
        self._uplink.renumber(keep_ipv6=True)
        self._configure()

    def lease(self) -> Lease:
        """See `Upstream`."""
        return self._plan.lease()

    def serve(self, port: str, lease: Lease, mac: str) -> None:
        """See `Upstream`."""
        lines = [f"link set {port} addrgenmode none", f"link set {port} master {LAN} up"]
        lines += [neighbour(interface.ip, mac, LAN) for interface in (lease.ipv4, lease.ipv6) if interface]
        if lease.ipv6 and lease.inside6:
            lines.append(f"route replace {lease.inside6} via {lease.ipv6.ip}")
        self.ip(*lines)

    def gateway_mac(self, port_mac: str) -> str:
        """See `Upstream`: the gateway is behind the switch."""
        return LAN_MAC

    def seen_as(self, address: IPv4Address) -> IPv4Address:
        """See `Upstream`."""
        return self._uplink.upstream.seen_as(address if self._config.nat is None else self.external_address)

    def _inside4(self) -> IPv4Network | None:
        outside, config = self._uplink.lease, self._config
        if not config.ipv4:
            return None
        if config.nat is None:
            if outside.inside4 is None:
                raise LabError(f"{self.name} has no NAT, so its upstream must be a public network")
            return outside.inside4
        if outside.ipv4 and outside.ipv4.network.overlaps(config.lan):
            raise LabError(f"{self.name} has {config.lan} on both sides; give it another network with lan=")
        return config.lan

    def _make_lan(self) -> None:
        ipv4, ipv6 = self._plan.gateway()
        lines = [f"link add {LAN} address {LAN_MAC} type bridge forward_delay 0 mcast_snooping 0", f"link set {LAN} up"]
        lines += [f"address add {ipv4} dev {LAN}"] if ipv4 else []
        lines += [f"address add {ipv6} dev {LAN} nodad"] if ipv6 else []
        self.ip(*lines)

    def _configure(self, *, replace: bool = True) -> None:
        config = self._config
        translation = None
        if config.nat is not None:
            translation = Translation(
                kind=config.nat.kind if isinstance(config.nat, Nat) else config.nat,
                external=self.external_address,
                hairpin=config.hairpin,
                udp_timeout=config.udp_timeout,
            )
        policy = RouterPolicy(
            wan=WAN, translation=translation, firewall=config.firewall, unsolicited=config.unsolicited
        )
        self.call(configure, policy, replace=replace)
