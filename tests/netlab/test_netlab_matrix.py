"""The matrix over real namespaces: with a program of a few lines, and with lattica."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from netlab.__main__ import main
from netlab.leftovers import _lab_namespaces

TINY = Path(__file__).parent.parent / "support" / "tiny_mesh.py"
TINY_COMMANDS = (
    f"--node-command={{python}} {TINY} node {{port}}",
    "--status-command=",
    f"--probe-command={{python}} {TINY} probe {{peer}}",
)


def results(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "matrix.json").read_text())
    return rows


def own_namespaces() -> list[str]:
    return [name for name in _lab_namespaces() if name.startswith(f"netlab.{os.getpid()}.")]


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_any_program_can_be_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This one finds no way through a NAT, and its own words are the reason."""
    code = main(["matrix", "--pairs", "none:none", "EIM_APDF:none", "none:EIM_APDF", "--jobs", "2",
                 "--out", str(tmp_path), *TINY_COMMANDS])  # fmt: skip
    rows = {(row["a"], row["b"]): row for row in results(tmp_path)}
    out, err = capsys.readouterr()
    assert code == 1, err
    for open_pair in (("none", "none"), ("EIM_APDF", "none")):
        row = rows[open_pair]
        assert (row["ok"], row["path"], row["reason"]) == (True, "direct", ""), row
        assert 0.08 <= row["first_byte_s"] == row["best_path_s"]  # a connection and an answer, 40 ms each
    refused = rows["none", "EIM_APDF"]
    assert (refused["ok"], refused["path"], refused["first_byte_s"]) == (False, "", None)
    assert refused["reason"].startswith("tiny: 192.168.1.10:4737 does not answer")
    assert "2 of 3 pairs connected (66%), 2 without a relay (66%): 2 direct" in out
    assert "none:EIM_APDF failed in 1 of 1 runs: tiny: 192.168.1.10" in err
    assert (tmp_path / "matrix.svg").read_text().startswith("<svg")
    assert "does not answer" in (tmp_path / "logs" / "none--EIM_APDF" / "alice-probe.err").read_text()
    assert own_namespaces() == []


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_lattica_goes_between_public_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "--kinds", "none", "--rounds", "2", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    rows = results(tmp_path)
    assert [(row["a"], row["b"], row["path"], row["ok"]) for row in rows] == [("none", "none", "direct", True)] * 2
    assert all(0.08 <= row["first_byte_s"] <= row["best_path_s"] for row in rows)
    assert "1 of 1 pairs connected in 2 runs (100%)" in capsys.readouterr().out
    assert not (tmp_path / "logs").exists()
    assert own_namespaces() == []


@pytest.mark.netns
def test_a_relay_that_does_not_start_fails_all_its_pairs_with_its_words(tmp_path: Path) -> None:
    crash = "{python} -c 'import sys; sys.exit(\"no port is free\")'"
    assert (
        main(["matrix", "--pairs", "none:none", "none:EIM_EIF", "--out", str(tmp_path), "--node-command", crash]) == 1
    )
    reasons = [row["reason"] for row in results(tmp_path)]
    assert reasons == ["relay did not start: no port is free"] * 2


@pytest.mark.netns
def test_a_program_that_is_not_there_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "--kinds", "none", "--out", str(tmp_path), "--node-command", "/no/such/program"]) == 1
    assert capsys.readouterr().err == "cannot run /no/such/program: No such file or directory\n"
    assert own_namespaces() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kinds", "CONE"], "'CONE' is no kind"),
        (["--pairs", "none"], "'none' is no pair"),
        (["--pairs", "none:none", "--kinds", "none"], "not both"),
        (["--probe-command", "call {whom}"], "{whom} has no value"),
    ],
)
def test_misuse_is_told_before_anything_starts(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", "--out", str(tmp_path / "results"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_rounds_that_are_none_are_misuse(rounds: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["matrix", "--rounds", rounds])
    assert caught.value.code == 2


@pytest.mark.netns
@pytest.mark.slow
def test_an_interrupted_matrix_keeps_its_results_and_leaves_nothing(tmp_path: Path) -> None:
    # What a shell starts in the background ignores interrupts, and so would this.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "netlab", "matrix", "--pairs", "none:none"]
    arguments = ["--rounds", "1000", "--out", str(tmp_path), *TINY_COMMANDS]
    with subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as matrix:
        try:
            assert matrix.stderr is not None
            assert "none : none  direct" in matrix.stderr.readline()
            matrix.send_signal(signal.SIGINT)
            _, stderr = matrix.communicate(timeout=45)
        finally:
            matrix.kill()
    assert matrix.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted; the results are those of the pairs above"
    assert all(row["ok"] for row in results(tmp_path))
    assert [name for name in _lab_namespaces() if name.startswith(f"netlab.{matrix.pid}.")] == []
