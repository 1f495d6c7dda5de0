"""The README's example is true: it is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "README.md"


async def test_the_readme_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(code) == 1
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(code[0], str(README), "exec"), names)
    main = names["main"]
    assert callable(main)
    await main(tmp_path)
    assert "3000000 bytes from" in capsys.readouterr().out
    assert (tmp_path / "copy.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150
