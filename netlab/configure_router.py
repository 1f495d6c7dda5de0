"""Make the machine (or namespace, or container) that this runs in a router.

The lab calls `configure`; a container runs ``python -m netlab.configure_router``, which takes the same choices
from its environment: ``NAT=EIM_APDF WAN=eth0 python -m netlab.configure_router``.
"""

import argparse
import ipaddress
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from netlab import firewall as firewalls
from netlab.commands import command
from netlab.conntrack import forget_flows
from netlab.errors import LabError
from netlab.firewall import Firewall, Unsolicited
from netlab.nat import Nat
from netlab.policy import TCP_TIMEOUT, UDP_TIMEOUT, RouterPolicy, Translation
from netlab.rules import ruleset
from netlab.sysctl import FORWARDING, set_sysctls

FIREWALLS: Mapping[str, Firewall | None] = {
    "none": None,
    "stateful": firewalls.STATEFUL,
    "udp-blocked": firewalls.UDP_BLOCKED,
    "only-tcp-443": firewalls.ONLY_TCP_443,
}
VARIABLES = {
    name: "--" + name.lower().replace("_", "-")
    for name in ("WAN", "NAT", "HAIRPIN", "UDP_TIMEOUT", "UNSOLICITED", "FIREWALL")
}


def configure(policy: RouterPolicy, *, replace: bool = True) -> None:
    """Forward packets as the policy says; whatever was mapped before is forgotten, as after a reboot.

    Without ``replace`` nothing may have been configured before; it only saves time.
    """
    command(["nft", "-f", "-"], ruleset(policy, replace=replace))
    set_sysctls(_sysctls(policy))
    forget_flows()


def _sysctls(policy: RouterPolicy) -> dict[str, int]:
    if policy.translation is None:
        return {**FORWARDING}
    return {
        **FORWARDING,
        "netfilter/nf_conntrack_udp_timeout": policy.translation.udp_timeout,
        "netfilter/nf_conntrack_udp_timeout_stream": policy.translation.udp_timeout,
        "netfilter/nf_conntrack_tcp_timeout_established": TCP_TIMEOUT,
        # After a reboot a segment from the middle of a connection must not make a mapping of its own.
        "netfilter/nf_conntrack_tcp_loose": 0,
    }


def external_address(wan: str) -> ipaddress.IPv4Address:
    """The first global IPv4 address of an interface."""
    for entry in _addresses(wan):
        if entry["family"] == "inet" and entry["scope"] == "global":
            return ipaddress.IPv4Address(entry["local"])
    raise LabError(f"interface {wan} has no IPv4 address to translate to; give it one first")


def find_interface(wanted: str) -> str:
    """The interface of this name, or the one that has an address in this network."""
    if "/" not in wanted:
        return wanted
    network = ipaddress.ip_network(wanted)
    for entry in _addresses():
        if ipaddress.ip_address(entry["local"]) in network:
            return entry["device"]
    raise LabError(f"no interface has an address in {network}; name one with WAN or --wan")


def _addresses(*devices: str) -> Iterator[dict[str, str]]:
    """Family, scope, address and device of each address that this machine has."""
    selected = [word for device in devices for word in ("dev", device)]
    for link in json.loads(command(["ip", "-json", "address", "show", *selected])):
        for entry in link["addr_info"]:
            yield {key: entry[key] for key in ("family", "scope", "local")} | {"device": link["ifname"]}


def policy_from(arguments: argparse.Namespace) -> RouterPolicy:
    """The policy that the command line asks for."""
    wan = find_interface(arguments.wan)
    translation = None
    if arguments.nat != "none":
        translation = Translation(
            kind=Nat[arguments.nat].kind,
            external=external_address(wan),
            hairpin=arguments.hairpin == "on",
            udp_timeout=arguments.udp_timeout,
        )
    return RouterPolicy(
        wan=wan,
        translation=translation,
        firewall=FIREWALLS[arguments.firewall],
        unsolicited=Unsolicited(arguments.unsolicited),
    )


def parser() -> argparse.ArgumentParser:
    """The command line; each option can be given by an environment variable, too."""
    options = argparse.ArgumentParser(prog="python -m netlab.configure_router", description=__doc__)
    add = options.add_argument
    add("--wan", default="eth0", help="outer interface, or a network that it has an address in (WAN)")
    add("--nat", choices=[*Nat.__members__, "none"], default=Nat.EIM_APDF.name, help="kind of NAT (NAT)")
    add("--hairpin", choices=["on", "off"], default="on", help="talk inside by outer addresses (HAIRPIN)")
    add("--udp-timeout", type=int, default=UDP_TIMEOUT, help="seconds a UDP mapping lasts (UDP_TIMEOUT)")
    answers = [answer.value for answer in Unsolicited]
    add("--unsolicited", choices=answers, default="drop", help="TCP from outside (UNSOLICITED)")
    add("--firewall", choices=[*FIREWALLS], default="none", help="what may leave (FIREWALL)")
    add("--print", action="store_true", help="print the nftables script and change nothing")
    return options


def from_environment(environment: Mapping[str, str]) -> list[str]:
    """The arguments that the environment gives; empty variables count as absent, as in a compose file."""
    return [f"{option}={environment[name]}" for name, option in VARIABLES.items() if environment.get(name)]


def main(argv: Sequence[str] | None = None) -> int:
    """Configure this machine; 0 done, 1 failed."""
    given = sys.argv[1:] if argv is None else argv
    options = parser().parse_args([*from_environment(os.environ), *given])
    try:
        policy = policy_from(options)
        if options.print:
            print(ruleset(policy), end="")
        else:
            configure(policy)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
