"""The native port: a node's gRPC server on a TCP port of its own, so that peers who can dial it need no gateway.

It is a second server of gRPC's with the same services, because limits are a server's: strangers that fill this port
take nothing from the unix socket behind the node's one port.
"""

from __future__ import annotations

import errno
import logging
import socket
from dataclasses import dataclass

import grpc

from lattica.errors import ConfigError, PortInUseError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NativeAddress:
    """Where a node's gRPC server listens itself.

    Attributes:
        host: IP address to bind. gRPC takes ``0.0.0.0`` as it takes ``::``, for every interface of both families.
        port: TCP port; 0 for any free one.
    """

    host: str
    port: int


def bind_native(server: grpc.aio.Server, address: NativeAddress, credentials: grpc.ServerCredentials) -> int:
    """Have a server listen on an address, once it starts; the port, or 0 if none can be had where any would do.

    Raises:
        PortInUseError: Somebody listens there.
        ConfigError: The address is not one of this machine's, or the port not allowed.
    """
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        return server.add_secure_port(f"{host}:{address.port}", credentials)
    except RuntimeError as error:  # gRPC does not say why
        reason = _why_not(address)
        if address.port == 0:
            logger.warning("no native port host=%s reason=%s", address.host, reason or error)
            return 0
        if reason is None or reason.errno == errno.EADDRINUSE:
            raise PortInUseError(address.host, address.port) from error
        raise ConfigError(f"cannot listen on {address.host} port {address.port}: {reason.strerror}") from error


def _why_not(address: NativeAddress) -> OSError | None:
    """What the system says when one listens on an address; ``None`` if it lets one."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address.host, address.port))
            sock.listen(1)
        except OSError as error:
            return error
    return None
