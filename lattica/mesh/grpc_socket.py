"""A TCP connection that gRPC has dialled itself: found among this process's descriptors, to watch it and to cut it.

gRPC moves its bytes and closes it. We hold a second descriptor of the same connection, by which the system tells how it
fares; where there is none to be had (it takes Linux), we do not let gRPC dial.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import sys
from collections.abc import Collection
from pathlib import Path

from lattica.mesh.pipes import configure
from lattica.mesh.tcp_info import TcpInfo, is_established, tcp_info

_DESCRIPTORS = Path("/proc/self/fd")
CAN_FIND = sys.platform == "linux" and hasattr(socket, "TCP_INFO") and _DESCRIPTORS.is_dir()
"""Whether this system lets us find gRPC's connections."""

Name = tuple[str, int]
"""An IP address, without the prefix of IPv4 in IPv6, and a port."""


class GrpcSocket:
    """A connection of gRPC's; implements `lattica.mesh.live_pipes.Carrier`. `close` it when gRPC is done with it.

    Args:
        sock: Our descriptor of it.

    Attributes:
        far: The same.
        local: Its own end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.far = sock
        self.local = _name(sock.getsockname())
        self._last = tcp_info(sock)

    @property
    def info(self) -> TcpInfo | None:
        """What the system tells of it; what it told last when the descriptor is closed."""
        self._last = tcp_info(self.far) or self._last
        return self._last

    @property
    def is_open(self) -> bool:
        """Whether both ends are there, as far as is known."""
        return is_established(self.far)

    @property
    def sent(self) -> int:
        """Bytes that the peer has acknowledged."""
        return info.sent if (info := self.info) else 0

    @property
    def received(self) -> int:
        """Bytes from the peer."""
        return info.received if (info := self.info) else 0

    def drop(self) -> None:
        """End the connection at once, for gRPC too."""
        with contextlib.suppress(OSError):  # it has ended already
            self.far.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give up our descriptor; gRPC's connection goes on."""
        self.far.close()


def find_grpc_socket(remote: Name, known: Collection[Name]) -> GrpcSocket | None:
    """The one connection of this process to ``remote`` whose own end is not ``known``; ``None`` if it is not just one.

    It gets the socket options that our own pipes have. To be called when gRPC has connected, and nobody else connects
    there.

    Raises:
        OSError: It has ended.
    """
    found = _connections(remote)
    new = [name for name in found if name not in known]
    for name in found:
        if new != [name]:
            found[name].close()
    if len(new) != 1:
        return None
    sock = found[new[0]]
    try:
        configure(sock)
        return GrpcSocket(sock)
    except BaseException:
        sock.close()
        raise


def _connections(remote: Name) -> dict[Name, socket.socket]:
    """This process's established TCP connections to an address by their own ends; second descriptors of them."""
    found: dict[Name, socket.socket] = {}
    for descriptor in [int(entry.name) for entry in _DESCRIPTORS.iterdir()]:
        with contextlib.suppress(OSError):  # it has been closed meanwhile, or is no connection; or we may have no more
            # Only those that do not block: a default timeout of the program's makes a new socket object change that.
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode) and not os.get_blocking(descriptor):
                _collect(_duplicate(descriptor), remote, found)
    return found


def _collect(sock: socket.socket, remote: Name, found: dict[Name, socket.socket]) -> None:
    """Keep the descriptor, if it is of a connection to ``remote`` of which we have none yet, or close it."""
    if not _leads_to(sock, remote) or found.setdefault(_name(sock.getsockname()), sock) is not sock:
        sock.close()


def _duplicate(descriptor: int) -> socket.socket:
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise


def _leads_to(sock: socket.socket, remote: Name) -> bool:
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or sock.type != socket.SOCK_STREAM:
        return False
    try:
        if _name(sock.getpeername()) != remote:
            return False
    except OSError:  # not connected
        return False
    return is_established(sock)


def _name(address: tuple[str, int] | tuple[str, int, int, int]) -> Name:
    """A socket's address; gRPC dials IPv4 addresses from sockets of IPv6."""
    ip = ipaddress.ip_address(address[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip), address[1]
