"""Runs the services of `netlab/docker-compose.yml` in a namespace lab, and a `docker` command that knows just them.

What a container adds is imitated: each service has a /mnt of its own (a folder, mounted over the machine's in a mount
namespace), the volume is a folder in all of them, and its commands run in the repository. What is not imitated, and so
not tested: the image, the engine's networks and its sysctls.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import netlab
from netlab import Host, Lab, Router, Shape
from netlab.namespace import Namespace

REPOSITORY = Path(netlab.__file__).parent.parent
COMPOSE_FILE = REPOSITORY / "netlab" / "docker-compose.yml"
LINK = Shape(delay=0.005)

DOCKER = """#!/bin/sh
# docker compose -f FILE exec -T SERVICE COMMAND..., in the namespace lab; the rest is noted and done already.
echo "$*" >> {calls}
[ "$1" = compose ] && [ "$4" = exec ] || exit 0
service=$6
shift 6
exec sh {root}/$service/run "$@"
"""
RUN = """#!/bin/sh
# Run a command as in the container of {service}.
exec ip netns exec {netns} unshare --mount sh -c \
    'mount --bind {root}/{service}/mnt /mnt && mount --bind {root}/shared /mnt/shared && exec "$@"' sh "$@"
"""


def compose_file() -> dict[str, Any]:
    """The compose file, with its variables as they are."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return loaded


class Twin:
    """The services in a lab; `start` them, then run scripts in `environment`.

    Args:
        lab: An empty one.
        folder: For the machines' files.
        homes: Whether alice and bob are behind routers that their own service configures; if not, both are public.
    """

    def __init__(self, lab: Lab, folder: Path, *, homes: bool) -> None:
        self._lab = lab
        self._root = folder
        self._services: dict[str, Any] = compose_file()["services"]
        self._calls = folder / "docker-calls"
        (folder / "shared").mkdir()
        (folder / "bin").mkdir()
        docker = folder / "bin" / "docker"
        docker.write_text(DOCKER.format(calls=self._calls, root=folder))
        docker.chmod(0o755)
        self.relay = lab.host("relay", link=LINK)
        self.routers: dict[str, Router] = {}
        self.hosts: dict[str, Host] = {"relay": self.relay, "carol": lab.host("carol", link=LINK)}
        for name in ("alice", "bob"):
            if homes:
                self.routers[name] = lab.router(f"{name}-router", link=LINK)
            self.hosts[name] = lab.host(name, upstream=self.routers.get(name), link=Shape() if homes else LINK)
        path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path}

    def start(self) -> None:
        """Run the services' commands, routers first."""
        for name, router in self.routers.items():
            # Addresses are the lab's; everything else is the compose file's.
            service = self._services[f"{name}-router"]
            variables = {key: default_of(str(value)) for key, value in service["environment"].items()}
            variables["WAN"] = f"{router.external_address}/32"
            configure, _, _ = service["command"][-1].partition(" && exec sleep")
            router.run(["sh", "-c", configure], env={**self.environment, **variables}, cwd=REPOSITORY)
        for name in ("relay", "alice", "bob", "carol"):
            self._start(name, self.hosts[name])

    def calls(self) -> list[str]:
        """What `docker` was called with."""
        return self._calls.read_text().splitlines()

    def _start(self, name: str, host: Namespace) -> None:
        (self._root / name / "mnt" / "shared").mkdir(parents=True)
        run = self._root / name / "run"
        run.write_text(RUN.format(service=name, netns=host.netns, root=self._root))
        service = self._services[name]
        variables: Mapping[str, str] = service.get("environment", {})
        if "RELAY_IP" in variables:
            variables = {**variables, "RELAY_IP": str(self.relay.ipv4), "GATEWAY": self._cut_off(name, host)}
        with (self._root / name / "log").open("wb") as log:
            host.popen(
                ["sh", run, *service["command"]],
                env={**self.environment, **variables},
                cwd=REPOSITORY,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _cut_off(self, name: str, host: Namespace) -> str:
        """Take away the default route to a router, as an engine's points elsewhere; returns the router's address."""
        if name not in self.routers:
            return ""
        host.ip("route del default")
        gateway, _ = self.routers[name]._plan.gateway()
        assert gateway is not None
        return str(gateway.ip)


def default_of(value: str) -> str:
    """What ``${NAME:-default}`` stands for when nothing is set."""
    return value.partition(":-")[2].removesuffix("}") if value.startswith("${") else value
