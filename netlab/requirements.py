"""Whether this machine can run a lab."""

import functools
import os
import shutil
import subprocess

PACKAGES = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables"}


@functools.cache
def unavailable_reason() -> str | None:
    """Why no lab can run here and what to do about it, or ``None`` if one can."""
    if os.name != "posix" or os.uname().sysname != "Linux":
        return "it is not Linux"
    if os.geteuid() != 0:
        return "not root; run it with sudo"
    for program, package in PACKAGES.items():
        if shutil.which(program) is None:
            return f"{program} is not installed; install {package}"
    probe = _in_a_namespace("true")
    if probe.returncode != 0:
        return f"namespaces cannot be made ({probe.stderr.strip()}); give the container --privileged"
    return None


@functools.cache
def has_netem() -> bool:
    """Whether the kernel delays and loses packets by itself."""
    return _in_a_namespace("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms").returncode == 0


def _in_a_namespace(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["unshare", "--net", *argv], capture_output=True, text=True, check=False)
