"""Kernel settings of the network namespace that the calling thread is in."""

from collections.abc import Mapping
from pathlib import Path

from netlab.errors import LabError

SYSCTLS = Path("/proc/sys/net")

FORWARDING: Mapping[str, int] = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
}


def set_sysctls(settings: Mapping[str, int]) -> None:
    """Set ``net.*`` settings, named by their paths below ``/proc/sys/net``.

    Raises:
        LabError: One could not be set, and has not the value already, as a container's may that are read-only.
    """
    for name, value in settings.items():
        path = SYSCTLS / name
        try:
            if int(path.read_text()) != value:
                path.write_text(str(value))
        except OSError as error:
            key = "net." + name.replace("/", ".")
            raise LabError(f"cannot set {key} to {value}: {error.strerror}; set it from outside") from error
