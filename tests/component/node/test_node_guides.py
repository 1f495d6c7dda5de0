"""The guides' examples are true: they are run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


async def test_the_grpc_guides_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (GUIDES / "grpc.md").read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "guide"}
    exec(compile(code, "grpc.md", "exec"), names)
    main = names["main"]
    assert callable(main)
    await main(tmp_path)
    printed = capsys.readouterr().out
    assert "call of /grpc.health.v1.Health/Check\nTrue\n" in printed
    assert "grpcurl -plaintext unix:" in printed


async def test_the_services_guides_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", (GUIDES / "services.md").read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "guide"}
    exec(compile(code, "services.md", "exec"), names)
    main = names["main"]
    assert callable(main)
    await main(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == ["[2. 2. 2. 2.]", "['to', 'be', 'or', 'not']", "10", "True"]
    assert "argument scale of llm/layers-0-7/forward" in printed[4]


async def test_the_services_guides_example_of_names_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, code = re.findall(r"```python\n(.*?)```", (GUIDES / "services.md").read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "guide"}
    exec(compile(code, "services.md", "exec"), names)
    main = names["main"]
    assert callable(main)
    await main(tmp_path)
    assert capsys.readouterr().out == "[1, 2, 3]\n"


async def test_the_documents_guides_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (GUIDES / "documents.md").read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "guide"}
    exec(compile(code, "documents.md", "exec"), names)
    main = names["main"]
    assert callable(main)
    await main(tmp_path)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "0.1 1"
    assert "its author may not write 'map:settings'" in second
