"""Our way into the IPv6 Internet, where addresses are not translated."""

from __future__ import annotations

import socket

from lattica.mesh.paths import is_global

_ANYWHERE = ("2001:503:ba3e::2:30", 9)  # a root name server's; a route is looked up, nothing is sent


def outbound_ipv6() -> str | None:
    """The address that this machine's IPv6 connections come from; ``None`` unless it is a global one.

    Of several (RFC 8981) it is the one that the system would choose, so that firewalls see the same from both ends.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect(_ANYWHERE)
            host = str(sock.getsockname()[0])
    except OSError:  # no IPv6, or no route
        return None
    return host if is_global(host) else None
