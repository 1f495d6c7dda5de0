"""A router's whole packet policy as one nftables script, applied in one transaction."""

from collections.abc import Iterable, Iterator

from netlab.firewall import Firewall
from netlab.nat_rules import nat_rules, permission, refusal
from netlab.policy import RouterPolicy, Translation

TABLE = "netlab"


def ruleset(policy: RouterPolicy, *, replace: bool = True) -> str:
    """The input for ``nft -f``.

    With ``replace`` it takes the place of an earlier one, if there is one, whose mappings are forgotten. Without, there
    must be none; it is faster, since the kernel deletes rules only when nobody reads them any more.
    """
    lines = [
        *_table("ip", _ipv4(policy), replace=replace),
        *_table("ip6", _plain(policy, "icmpv6"), replace=replace),
    ]
    return "\n".join(lines) + "\n"


def _table(family: str, body: Iterable[str], *, replace: bool) -> Iterator[str]:
    # Only our own table: a container engine keeps its name service in tables of the same namespace.
    if replace:
        yield f"table {family} {TABLE} {{ }}"
        yield f"delete table {family} {TABLE}"
    yield f"table {family} {TABLE} {{"
    yield from body
    yield "}"


def _ipv4(policy: RouterPolicy) -> Iterator[str]:
    if policy.translation is None:
        yield from _plain(policy, "icmp")
    else:
        yield from nat_rules(policy, policy.translation)
        yield from _forwarding_with_nat(policy, policy.translation)


def _forwarding_with_nat(policy: RouterPolicy, translation: Translation) -> Iterator[str]:
    yield "chain forwarding { type filter hook forward priority filter; policy drop;"
    # A packet without a mapping must not leave with its private address, as it would after a reboot.
    yield "ct state invalid drop"
    yield from _leaving(policy)
    yield f'iifname != "{policy.wan}" jump note_permission'
    yield "ct state established,related accept"
    yield f'iifname != "{policy.wan}" accept'
    yield f"ct status dnat {permission(translation.kind.filtering)} accept"
    yield from refusal(policy.unsolicited)
    yield "}"


def _plain(policy: RouterPolicy, icmp: str) -> Iterator[str]:
    yield "chain forwarding { type filter hook forward priority filter; policy accept;"
    yield from _leaving(policy)
    # A NAT without a firewall still has IPv6's customary one (RFC 6092): what comes unasked stays out.
    firewall = policy.firewall or (Firewall() if policy.translation else None)
    if firewall and firewall.stateful:
        yield f'iifname != "{policy.wan}" accept'
        yield "ct state established,related accept"
        yield f"meta l4proto {icmp} accept"
        yield from refusal(policy.unsolicited)
    yield "}"


def _leaving(policy: RouterPolicy) -> Iterator[str]:
    """Drop new flows to the outside that the firewall forbids."""
    if policy.firewall is None:
        return
    new = f'iifname != "{policy.wan}" oifname "{policy.wan}" ct direction original'
    for transport, ports in (("tcp", policy.firewall.tcp_ports), ("udp", policy.firewall.udp_ports)):
        if ports:
            listed = ", ".join(str(port) for port in sorted(ports))
            yield f"{new} {transport} dport != {{ {listed} }} drop"
        elif ports is not None:
            yield f"{new} meta l4proto {transport} drop"
