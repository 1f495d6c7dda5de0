"""The commands, and the README's example."""

import os
import re
from pathlib import Path

import pytest

import netlab
from netlab.__main__ import main
from netlab.commands import command
from netlab.names import LabId
from netlab.requirements import unavailable_reason

README = Path(netlab.__file__).with_name("README.md")


@pytest.mark.netns
def test_check_says_that_labs_run_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out.startswith("labs run here")


def test_check_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    unavailable_reason.cache_clear()
    try:
        assert main(["check"]) == 1
    finally:
        unavailable_reason.cache_clear()
    assert capsys.readouterr().out == "no lab on this machine: not root; run it with sudo\n"


@pytest.mark.netns
def test_sweep_removes_leftovers(capsys: pytest.CaptureFixture[str]) -> None:
    left = LabId(os.getpid(), 2, 1).namespace("alice")
    command(["ip", "netns", "add", left])
    assert main(["sweep"]) == 0
    assert not Path("/run/netns", left).exists()
    assert left in capsys.readouterr().out


def test_an_unknown_command_is_misuse() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dance"])
    assert caught.value.code == 2


@pytest.mark.netns
def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(from netlab .*?)```", README.read_text(), re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.startswith("192.168.1.10 is seen as 11.2.0.2\n")
