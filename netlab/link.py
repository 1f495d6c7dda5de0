"""A cable between two machines of the lab, which can be slow, lossy, or cut.

Each end is one half of a veth pair; the other halves meet in the lab's namespace of links, where nftables passes
frames across, `tc` limits their rate, and netem or a `delay_line` process delays and loses them. The machines see a
plain Ethernet device, which stays the same whatever the link becomes.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from netlab.commands import command
from netlab.delay_process import DelayProcess
from netlab.namespace import Namespace
from netlab.requirements import has_netem
from netlab.shape import Shape, qdiscs

SEGMENTS = 65_535  # of one offloaded frame, at most


@dataclass(frozen=True, slots=True)
class Plug:
    """One end of a link: the name of its device in a machine's namespace."""

    namespace: Namespace
    device: str


class LinkSpace:
    """The namespace in which the links of one lab live; it must be without IPv6, so that nothing in it speaks."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self._links: list[Link] = []

    def join(self, left: Plug, right: Plug) -> "Link":
        """A new link between two devices that it makes; it is perfect, and reshaped when packets pass."""
        link = Link(self, len(self._links) + 1, left, right)
        self._links.append(link)
        return link

    def close(self) -> None:
        """End what the links run; the devices go with their namespaces."""
        with ExitStack() as ending:
            for link in self._links:
                ending.callback(link.close)


class Link:
    """Use `reshape`, `down` and `up` at any time; packets on their way keep the shape they met.

    Attributes:
        shape: What it does to packets while it is up.
        is_up: Whether anything passes.
        macs: The Ethernet addresses of its two ends.
    """

    def __init__(self, space: LinkSpace, number: int, left: Plug, right: Plug) -> None:
        self.shape = Shape()
        self.is_up = False
        self._space = space
        self._table = f"link{number}"
        self._plugs = left, right
        self._ends = f"w{number}l", f"w{number}r"
        self._taps = f"t{number}l", f"t{number}r"
        self._delay_process: DelayProcess | None = None
        self._forwards = False
        self.macs = _mac(1, number), _mac(2, number)
        lines = []
        for plug, mac, end in zip(self._plugs, self.macs, self._ends, strict=True):
            far = f"name {plug.device} address {mac} netns {plug.namespace.netns}"
            lines += [f"link add {end} type veth peer {far}", f"link set {end} up"]
        space.namespace.ip(*lines)
        self.up()

    def __repr__(self) -> str:
        left, right = (f"{plug.namespace.netns}:{plug.device}" for plug in self._plugs)
        return f"<Link {left} - {right} {self.shape}{'' if self.is_up else ' down'}>"

    def reshape(self, shape: Shape) -> None:
        """Treat packets like this from now on, in both directions."""
        self._limit(shape)
        if not has_netem():
            self._delay(shape)
        elif (shape.loss > 0.0) != (self.shape.loss > 0.0):
            # netem loses whole frames; make the machines send one segment in each.
            most = 1 if shape.loss > 0.0 else SEGMENTS
            for plug in self._plugs:
                plug.namespace.ip(f"link set {plug.device} gso_max_segs {most}")
        self.shape = shape

    def down(self) -> None:
        """Cut the link: packets vanish, and neither side is told."""
        self.is_up = False
        self._forward()

    def up(self) -> None:
        """Mend it."""
        self.is_up = True
        self._forward()

    def close(self) -> None:
        """End its delay line, if it has one; the devices go with their namespaces."""
        retired, self._delay_process = self._delay_process, None
        if retired is not None:
            retired.close()

    def _limit(self, shape: Shape) -> None:
        netem, lines = has_netem(), []
        for end in self._ends:
            if any(qdiscs(end, self.shape, netem=netem)):
                lines.append(f"qdisc delete dev {end} root")
            lines.extend(qdiscs(end, shape, netem=netem))
        if lines:
            command(["tc", "-n", self._space.namespace.netns, "-batch", "-"], "\n".join(lines) + "\n")

    def _delay(self, shape: Shape) -> None:
        """Put a delay line in, tell it, or take it out with the frames in it."""
        if not shape.impaired:
            retired, self._delay_process = self._delay_process, None
            if retired is not None:
                self._forward()
                retired.close()
        elif self._delay_process is not None:
            self._delay_process.reshape(shape)
        else:
            self._delay_process = DelayProcess(self._space.namespace, self._taps)
            self._delay_process.reshape(shape)
            self._forward()

    def _forward(self) -> None:
        script = [*_crossing(self._table, dict(self._routes()), self.is_up)]
        if self._forwards:
            script.insert(0, f"delete table netdev {self._table}")  # one transaction: no frame slips past
        self._space.namespace.call(command, ["nft", "-f", "-"], "\n".join(script) + "\n")
        self._forwards = True

    def _routes(self) -> Iterator[tuple[str, str]]:
        """For each device that frames come in by, the one that they leave by."""
        (left, right), (tap_left, tap_right) = self._ends, self._taps
        if self._delay_process is None:
            yield from ((left, right), (right, left))
        else:
            yield from ((left, tap_left), (tap_right, right), (right, tap_right), (tap_left, left))


def _mac(side: int, number: int) -> str:
    high, low = divmod(number, 256)
    return f"02:00:00:{side:02x}:{high:02x}:{low:02x}"


def _crossing(table: str, routes: dict[str, str], is_up: bool) -> Iterator[str]:
    yield f"table netdev {table} {{"
    for source, sink in routes.items():
        yield f'chain from_{source} {{ type filter hook ingress device "{source}" priority 0; policy drop;'
        if is_up:
            yield f'fwd to "{sink}"'
        yield "}"
    yield "}"
