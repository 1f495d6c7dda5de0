"""The router script by itself, as a container runs it."""

import os
import subprocess
import sys

import pytest

from netlab import Lab, Router
from netlab.configure_router import from_environment, main
from netlab.probes import Admitted, Attempt, attempt, listen, local, mapped, tcp_admits, udp, udp_admits

SCRIPT = [sys.executable, "-m", "netlab.configure_router"]


def run_script(router: Router, *arguments: str, **variables: str) -> str:
    return router.run([*SCRIPT, *arguments], env={**os.environ, **variables})


@pytest.mark.netns
def test_the_script_makes_a_plain_router_the_nat_that_its_environment_asks_for(lab: Lab) -> None:
    one, two = lab.host("one"), lab.host("two")
    router = lab.router("router")
    alice = lab.host("alice", upstream=router)
    outside = f"{router.external_address}/32"

    run_script(router, NAT="EIM_ADF", WAN=outside, UNSOLICITED="reset")
    with udp(alice) as client, udp(one) as server:
        assert mapped(client, server) == (str(router.external_address), local(client)[1])
    assert udp_admits(alice, one, two) == tcp_admits(alice, one, two) == Admitted(True, False)

    run_script(router, "--nat=APDM_APDF_SEQUENTIAL", WAN="wan", NAT="EIM_ADF", FIREWALL="only-tcp-443", HAIRPIN="")
    with listen(one, 443) as https, listen(one, 4001) as other:
        assert attempt(alice, local(https)) is Attempt.CONNECTED
        assert attempt(alice, local(other)) is Attempt.SILENCE


@pytest.mark.netns
def test_a_router_that_cannot_be_configured_says_why(lab: Lab) -> None:
    plain = lab.host("plain")
    for arguments, words in (
        (["--wan=10.99.0.0/16"], "no interface has an address in 10.99.0.0/16"),
        (["--wan=lo"], "interface lo has no IPv4 address"),
        (["--wan=eth7"], "eth7"),
    ):
        done = plain.popen([*SCRIPT, *arguments], stderr=subprocess.PIPE)
        _, stderr = done.communicate(timeout=20)
        assert (done.returncode, words in stderr.decode()) == (1, True)


def test_empty_variables_count_as_absent() -> None:
    assert from_environment({"NAT": "EIM_EIF", "WAN": "", "UDP_TIMEOUT": "30", "HOME": "/root"}) == [
        "--nat=EIM_EIF",
        "--udp-timeout=30",
    ]


@pytest.mark.parametrize(("name", "value"), [("NAT", "CONE"), ("UDP_TIMEOUT", "soon"), ("FIREWALL", "wet")])
def test_a_wrong_choice_is_misuse(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert value in capsys.readouterr().err


def test_the_script_can_show_what_it_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--wan=lo", "--nat=none", "--firewall=udp-blocked", "--print"]) == 0
    assert 'iifname != "lo" oifname "lo" ct direction original meta l4proto udp drop' in capsys.readouterr().out
