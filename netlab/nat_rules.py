"""A NAT of any RFC 4787 kind, as an nftables table.

Linux's own `masquerade` has one behaviour: it keeps the port where it can and picks another per flow where it
cannot, so it is endpoint-independent only by luck, and it filters by connection tracking alone. Here the NAT's
tables are explicit, as in the RFC:

- ``mapped``: internal endpoint (and as much of the remote one as the mapping depends on) to external port;
- ``owners``: external port to internal endpoint;
- ``permitted``: which remote an internal endpoint has sent to.

A flow's first packet consults them, each later packet of it keeps their entries alive, in either direction.
"""

from collections.abc import Iterator

from netlab.firewall import Unsolicited
from netlab.nat import Filtering, Mapping, Ports
from netlab.policy import TCP_TIMEOUT, RouterPolicy, Translation

TABLE_SIZE = 65536
FIRST_PORT, LAST_PORT = 1024, 65535
FIRST_SEQUENTIAL_PORT = 20_000
SEQUENTIAL_PORTS = 8192  # then it starts again; a table, because nftables' counters come in host byte order

TRANSPORT = "meta l4proto { tcp, udp }"
INTERNAL = "inet_proto . ipv4_addr . inet_service"

# The two ends of a tracked flow as (address, port) expressions: whoever began it from inside, seen before and
# after translation, and whoever was reached from outside, likewise.
SOURCE = "ct original ip saddr . ct original proto-src"
SOURCE_PORT = "ct reply proto-dst"
TARGET = "ct reply ip saddr . ct reply proto-src"
TARGET_PORT = "ct original proto-dst"


def nat_rules(policy: RouterPolicy, translation: Translation) -> Iterator[str]:
    """The lines inside an `ip` table: sets, maps and NAT chains; forwarding is decided elsewhere."""
    yield from _tables(translation)
    yield from _translate_inbound(policy.wan, translation)
    yield from _translate_outbound(policy.wan, translation)
    yield from _remember(policy.wan, translation)
    yield from _note_permission(translation)
    yield from _local(policy, translation)


def permission(filtering: Filtering) -> str:
    """A match on the packets that the filter admits to an internal endpoint; empty if it admits all."""
    match filtering:
        case Filtering.EIF:
            return ""
        case Filtering.ADF:
            return "meta l4proto . ip daddr . th dport . ip saddr @permitted"
        case Filtering.APDF:
            return "meta l4proto . ip daddr . th dport . ip saddr . th sport @permitted"


def _tables(translation: Translation) -> Iterator[str]:
    flags = f"flags dynamic,timeout; size {TABLE_SIZE}"
    by_remote = " . ipv4_addr" if translation.kind.mapping is Mapping.ADM else ""
    if translation.kind.mapping is not Mapping.APDM:
        yield f"map mapped {{ type {INTERNAL}{by_remote} : inet_service; {flags}; }}"
    yield f"map owners {{ type inet_proto . inet_service : ipv4_addr . inet_service; {flags}; }}"
    remote_port = " . inet_service" if translation.kind.filtering is Filtering.APDF else ""
    yield f"set permitted {{ type {INTERNAL} . ipv4_addr{remote_port}; {flags}; }}"


def _translate_inbound(wan: str, translation: Translation) -> Iterator[str]:
    to_owner = f"ip daddr {translation.external} {TRANSPORT} dnat ip to meta l4proto . th dport map @owners"
    yield "chain translate_inbound { type nat hook prerouting priority dstnat; policy accept;"
    # With APDF whatever may enter belongs to a tracked flow, which never gets here.
    if translation.kind.filtering is not Filtering.APDF:
        yield f'iifname "{wan}" {to_owner}'
    if translation.hairpin:
        yield f'iifname != "{wan}" {to_owner}'
    yield "}"


def _translate_outbound(wan: str, translation: Translation) -> Iterator[str]:
    yield "chain allocate {"
    yield from _allocation(translation)
    yield "}"
    yield "chain translate_outbound { type nat hook postrouting priority srcnat; policy accept;"
    # The router's own packets need no port: a RST to a stranger would use one up.
    yield "fib saddr type local accept"
    yield f'iifname != "{wan}" oifname "{wan}" jump allocate'
    yield f'iifname != "{wan}" ct status dnat jump allocate'
    yield "}"


def _allocation(translation: Translation) -> Iterator[str]:
    """The port of a new flow: the one its mapping has, else a new one."""
    snat = f"{TRANSPORT} snat ip to {translation.external}"
    if translation.kind.mapping is not Mapping.APDM:
        by_remote = " . ip daddr" if translation.kind.mapping is Mapping.ADM else ""
        yield f"{snat} : meta l4proto . ip saddr . th sport{by_remote} map @mapped"
    match translation.kind.ports:
        case Ports.PRESERVED:
            yield f"{TRANSPORT} meta l4proto . th sport != @owners snat ip to {translation.external}"
            yield f"{snat}:{FIRST_PORT}-{LAST_PORT} random"
        case Ports.RANDOM:
            yield f"{snat}:{FIRST_PORT}-{LAST_PORT} random"
        case Ports.SEQUENTIAL:
            ports = ", ".join(f"{step} : {FIRST_SEQUENTIAL_PORT + step}" for step in range(SEQUENTIAL_PORTS))
            yield f"{snat} : numgen inc mod {SEQUENTIAL_PORTS} map {{ {ports} }}"
    yield f"snat ip to {translation.external}"


def _remember(wan: str, translation: Translation) -> Iterator[str]:
    """Keep the tables true, once the kernel has settled the flow's endpoints.

    A hairpinned packet is filtered here and not where the others are: only now does it have the external
    source that the filter judges. It has refreshed its sender's mapping by then, but not yet its target's.
    """
    yield "chain remember { type filter hook postrouting priority srcnat + 10; policy accept;"
    yield from _refresh(translation, "snat", SOURCE, SOURCE_PORT, "ct original ip daddr")
    if admitted := permission(translation.kind.filtering):
        unasked = admitted.replace(" @", " != @")
        yield f'iifname != "{wan}" ct status dnat ct state new {TRANSPORT} {unasked} drop'
    yield from _refresh(translation, "dnat", TARGET, TARGET_PORT, "ct reply ip daddr")
    yield "}"


def _refresh(translation: Translation, status: str, endpoint: str, port: str, remote: str) -> Iterator[str]:
    by_remote = f" . {remote}" if translation.kind.mapping is Mapping.ADM else ""
    for transport, timeout in _timeouts(translation):
        flow = f"ct status {status} meta l4proto {transport}"
        if translation.kind.mapping is not Mapping.APDM:
            key = f"meta l4proto . {endpoint}{by_remote}"
            yield f"{flow} update @mapped {{ {key} timeout {timeout}s : {port} }}"
        yield f"{flow} update @owners {{ meta l4proto . {port} timeout {timeout}s : {endpoint} }}"


def _note_permission(translation: Translation) -> Iterator[str]:
    """A chain for packets from inside: whoever they are for may answer."""
    port = translation.kind.filtering is Filtering.APDF
    yield "chain note_permission {"
    for transport, timeout in _timeouts(translation):
        for direction in ("original", "reply"):
            sender = f"ct {direction} ip saddr . ct {direction} proto-src"
            remote = f"ct {direction} ip daddr" + (f" . ct {direction} proto-dst" if port else "")
            yield (
                f"ct direction {direction} meta l4proto {transport} "
                f"update @permitted {{ meta l4proto . {sender} . {remote} timeout {timeout}s }}"
            )
    yield "}"


def _local(policy: RouterPolicy, translation: Translation) -> Iterator[str]:
    """What is left for the external address itself: no mapping took it."""
    yield "chain local { type filter hook input priority filter; policy accept;"
    yield "ct state established,related accept"
    yield f"ip daddr != {translation.external} accept"
    yield "meta l4proto icmp accept"
    yield from refusal(policy.unsolicited)
    yield "}"


def refusal(unsolicited: Unsolicited) -> Iterator[str]:
    """The last lines of a chain whose packets nobody wants."""
    if unsolicited is Unsolicited.RESET:
        yield "meta l4proto tcp reject with tcp reset"
    yield "drop"


def _timeouts(translation: Translation) -> tuple[tuple[str, int], ...]:
    return ("udp", translation.udp_timeout), ("tcp", TCP_TIMEOUT)
