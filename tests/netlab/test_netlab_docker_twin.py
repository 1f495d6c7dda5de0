"""The docker-compose twin: its file by its parser, its scripts and services in the namespace lab."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker_twin import COMPOSE_FILE, REPOSITORY, Twin, compose_file, default_of

from netlab import Lab, Nat
from netlab.configure_router import _sysctls, from_environment, parser
from netlab.policy import RouterPolicy, Translation

SCRIPTS = REPOSITORY / "netlab" / "scripts"


def compose(*arguments: str, **variables: str) -> str:
    command = ["docker-compose", "-f", str(COMPOSE_FILE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **variables})
    return done.stdout


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="install Debian's docker-compose to parse the file")
def test_docker_compose_takes_the_file_and_the_variables() -> None:
    shown = compose("config", ALICE_NAT="APDM_APDF_RANDOM", BOB_UNSOLICITED="reset", UDP_TIMEOUT="30")
    assert shown.count("NAT: APDM_APDF_RANDOM") == 1
    assert shown.count("NAT: EIM_APDF") == 1
    assert shown.count("UNSOLICITED: reset") == 1
    assert shown.count("nf_conntrack_udp_timeout: '30'") == 2
    services = compose("config", "--services").split()
    assert sorted(services) == ["alice", "alice-router", "bob", "bob-router", "carol", "relay"]


def test_the_routers_have_every_kernel_setting_that_the_router_script_makes() -> None:
    """In a container /proc/sys cannot be written; the script takes what is right already."""
    translation = Translation(kind=Nat.EIM_APDF.kind, external=ipaddress.IPv4Address("11.99.0.21"))
    wanted = _sysctls(RouterPolicy(wan="eth0", translation=translation))
    for name in ("alice-router", "bob-router"):
        given = compose_file()["services"][name]["sysctls"]
        assert {key.replace("/", ".").removeprefix("net."): value for key, value in wanted.items()} == {
            key.removeprefix("net."): int(default_of(str(value))) for key, value in given.items()
        }


def test_the_router_script_takes_the_environment_of_the_routers() -> None:
    for name in ("alice-router", "bob-router"):
        given = compose_file()["services"][name]["environment"]
        arguments = from_environment({key: default_of(str(value)) for key, value in given.items()})
        assert len(arguments) == len(given)
        assert parser().parse_args(arguments).nat == Nat.EIM_APDF.name


def test_the_internet_looks_public_and_the_homes_do_not() -> None:
    file = compose_file()
    subnets = {
        name: ipaddress.ip_network(network["ipam"]["config"][0]["subnet"]) for name, network in file["networks"].items()
    }
    assert {name: subnet.is_global for name, subnet in subnets.items()} == {
        "internet": True,
        "alice-home": False,
        "bob-home": False,
    }
    for service in file["services"].values():
        for name, place in service["networks"].items():
            assert ipaddress.ip_address(place["ipv4_address"]) in subnets[name]


def test_the_image_is_made_of_files_that_exist() -> None:
    dockerfile = (COMPOSE_FILE.parent / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert {"pyproject.toml", "lattica", "netlab"} <= set(copied)
    admitted = (COMPOSE_FILE.parent / "Dockerfile.dockerignore").read_text().split()
    for name in copied:
        assert (REPOSITORY / name).exists()
        assert f"!{name}" in admitted


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_sound_shell(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)
    assert script.read_text().startswith("#!/bin/sh\n#")


def test_without_an_engine_the_lab_says_what_to_do(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = ["sh", str(SCRIPTS / "docker_lab.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "no Docker engine answers" in sentence
    assert "make lab" in sentence


def test_the_model_made_on_the_spot_is_a_safetensors_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs the demo extra")
    model = tmp_path / "model.safetensors"
    subprocess.run([sys.executable, SCRIPTS / "make_model.py", model, "2"], check=True)
    assert model.stat().st_size > 2_000_000
    assert sorted(safetensors.load_file(model)) == [f"layers.{layer}.weight" for layer in range(8)]


def test_a_peer_whose_relay_never_speaks_gives_up_with_a_sentence(tmp_path: Path) -> None:
    quick = tmp_path / "peer.sh"
    quick.write_text((SCRIPTS / "peer.sh").read_text().replace("RELAY_TIMEOUT=60", "RELAY_TIMEOUT=0"))
    variables = {**os.environ, "RELAY_IP": "11.0.0.1", "RELAY_LINE": str(tmp_path / "none")}
    done = subprocess.run(
        ["sh", quick, tmp_path / "home", "4737"], capture_output=True, text=True, check=False, env=variables
    )
    assert done.returncode == 1
    assert "is the relay running?" in done.stderr


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "homes",
    [
        pytest.param(False, id="public"),
        pytest.param(True, id="homes"),
    ],
)
def test_a_model_goes_across_the_twin(homes: bool, lab: Lab, tmp_path: Path) -> None:
    """Everything but the engine: the services' commands, and `make lab-docker`'s script from start to end."""
    twin = Twin(lab, tmp_path, homes=homes)
    twin.start()
    variables = {"MODEL": "/no/such/file", **({} if homes else {"RELAYED": ""})}
    done = subprocess.run(
        ["sh", str(SCRIPTS / "docker_lab.sh")],
        capture_output=True,
        text=True,
        check=False,
        env={**twin.environment, **variables},
    )
    logs = "".join(path.read_text() for path in tmp_path.glob("*/log"))
    assert done.returncode == 0, done.stderr + logs
    assert done.stdout.endswith("all three have the same file\n")
    fetched = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(fetched) == 2
    for result in fetched:
        assert result["size"] > 16_000_000
        assert {source["path"] for source in result["sources"] if source["bytes"]} <= {
            "direct", "punched-tcp", "punched-udp", "relayed", "circuit",
        }  # fmt: skip
    calls = [call.partition("docker-compose.yml ")[2] for call in twin.calls()]
    assert "up --build -d" in calls
    assert calls[-1] == "down -v --timeout 5"
