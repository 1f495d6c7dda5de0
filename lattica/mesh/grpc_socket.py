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
from pathlib import Path

from lattica.mesh.pipes import configure
from lattica.mesh.tcp_info import TcpInfo, is_established, tcp_info

_DESCRIPTORS = Path("/proc/self/fd")
CAN_FIND = sys.platform == "linux" and hasattr(socket, "TCP_INFO") and _DESCRIPTORS.is_dir()
"""Whether this system lets us find gRPC's connections."""

Name = tuple[str, int]
"""An IP address, without the prefix of IPv4 in IPv6, and a port."""


class GrpcSocket:
    """A connection of gRPC's; implements `lattica.mesh.live_pipes.Carrier`.

    Args:
        sock: Our descriptor of it.

    Attributes:
        far: The same.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.far = sock
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


class GrpcSockets:
    """Finds connections among this process's descriptors, and remembers where those lead that it has looked at."""

    def __init__(self) -> None:
        self._peers: dict[int, Name | None] = {}  # by inode; None for what is no TCP connection and never will be
        self._held: dict[GrpcSocket, int] = {}

    def find(self, remote: Name) -> GrpcSocket | None:
        """The one connection of this process to ``remote`` that is not held yet; ``None`` if it is not just one.

        It gets the socket options that our own pipes have, and is held until `release`. To be called when gRPC has
        connected, and nobody else connects there. Takes 3 microseconds for each descriptor of the process, 20 for one
        that is new.

        Raises:
            OSError: It has ended, or there are no descriptors left.
        """
        found = list(self._connections(remote).items())
        if len(found) != 1:
            for _, sock in found:
                sock.close()
            return None
        [(inode, sock)] = found
        try:
            configure(sock)
            connection = GrpcSocket(sock)
        except BaseException:
            sock.close()
            raise
        self._held[connection] = inode
        return connection

    def release(self, connection: GrpcSocket) -> None:
        """Give up a connection; gRPC's own goes on."""
        self._held.pop(connection, None)
        connection.close()

    def _connections(self, remote: Name) -> dict[int, socket.socket]:
        """Second descriptors of established connections to an address that are not held, by inode."""
        descriptors = _sockets()
        self._peers = {inode: self._peers[inode] for inode in self._peers.keys() & descriptors.keys()}
        held = set(self._held.values())
        found: dict[int, socket.socket] = {}
        for inode, descriptor in descriptors.items():
            if inode in held or self._peers.get(inode, remote) != remote:
                continue
            with contextlib.suppress(OSError):  # it has been closed meanwhile, or we may have no more
                if os.get_blocking(descriptor):  # a default timeout of the program's would make it one that does not
                    continue
                sock = _duplicate(descriptor)
                if self._leads_to(sock, inode, remote):
                    found[inode] = sock
                else:
                    sock.close()
        return found

    def _leads_to(self, sock: socket.socket, inode: int, remote: Name) -> bool:
        if sock.family not in {socket.AF_INET, socket.AF_INET6} or sock.type != socket.SOCK_STREAM:
            self._peers[inode] = None
            return False
        try:
            peer = self._peers[inode] = _name(sock.getpeername())
        except OSError:  # not connected, or not yet
            return False
        return peer == remote and os.fstat(sock.fileno()).st_ino == inode and is_established(sock)


def _sockets() -> dict[int, int]:
    """This process's sockets: inode and descriptor."""
    found: dict[int, int] = {}
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - there may be many
        with contextlib.suppress(OSError):  # it has been closed meanwhile
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(name)
    return found


def _duplicate(descriptor: int) -> socket.socket:
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise


def _name(address: tuple[str, int] | tuple[str, int, int, int]) -> Name:
    """A socket's address; gRPC dials IPv4 addresses from sockets of IPv6."""
    ip = ipaddress.ip_address(address[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip), address[1]
