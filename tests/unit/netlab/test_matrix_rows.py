"""From replies to a verdict, and from rows to text and a picture."""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from netlab.matrix import picture
from netlab.matrix.rows import FIRST_REPLY_LIMIT, SETTLED, WATCH_LIMIT, Observation, Row, cells, rank
from netlab.matrix.table import failures, summary, table

PAIR = ("none", "EIM_APDF")


def reply(path: str, elapsed: float) -> dict[str, object]:
    return {"peer_id": "x", "rtt_ms": 40.0, "path": path, "elapsed_s": elapsed}


def row(path: str = "direct", first: float | None = 0.2, best: float | None = 0.2, **fields: object) -> Row:
    values: dict[str, object] = {"a": "none", "b": "EIM_APDF", "ok": True, **fields}
    return Row(path=path, first_byte_s=first, best_path_s=best, **values)  # type: ignore[arg-type]


def test_the_first_reply_gives_the_first_byte_and_the_best_path_its_own_time() -> None:
    seen = Observation(100.0)
    for path, elapsed in (("relayed", 0.3), ("relayed", 0.4), ("punched-tcp", 1.5), ("punched-tcp", 1.6)):
        seen.receive(reply(path, elapsed), 100.0 + elapsed)
    assert seen.verdict(PAIR) == Row(
        a="none", b="EIM_APDF", path="punched-tcp", first_byte_s=0.3, best_path_s=1.5, ok=True
    )


def test_watching_ends_when_the_path_has_not_improved_for_a_while() -> None:
    seen = Observation(100.0)
    assert seen.deadline == 100.0 + FIRST_REPLY_LIMIT
    seen.receive(reply("relayed", 0.3), 101.0)
    assert seen.deadline == 101.0 + SETTLED
    seen.receive(reply("relayed", 1.3), 102.0)
    assert seen.deadline == 101.0 + SETTLED
    seen.receive(reply("punched-udp", 2.3), 103.0)
    assert seen.deadline == 103.0 + SETTLED


def test_watching_ends_even_if_the_path_goes_on_improving() -> None:
    seen = Observation(100.0)
    for second, path in enumerate(["odd", "circuit", "relayed", "punched-udp", "punched-tcp"]):
        seen.receive(reply(path, second * 2.4), 100.0 + second * 2.4)
    assert seen.deadline == 100.0 + WATCH_LIMIT


def test_no_reply_is_a_failure_with_the_programs_own_words_if_it_had_any() -> None:
    assert Observation(0.0).verdict(PAIR).reason == "no reply within 20 s"
    failed = Observation(0.0).verdict(PAIR, "lattica: cannot reach it")
    assert (failed.ok, failed.path, failed.reason) == (False, "", "lattica: cannot reach it")


def test_a_probe_that_fails_after_replies_keeps_its_path_but_is_a_failure() -> None:
    seen = Observation(0.0)
    seen.receive(reply("relayed", 0.3), 0.3)
    failed = seen.verdict(PAIR, "lost it")
    assert (failed.ok, failed.path, failed.first_byte_s, failed.reason) == (False, "relayed", 0.3, "lost it")


def test_a_path_that_gets_worse_is_remarked_upon() -> None:
    seen = Observation(0.0)
    seen.receive(reply("punched-tcp", 0.3), 0.3)
    seen.receive(reply("relayed", 0.4), 0.4)
    judged = seen.verdict(PAIR)
    assert judged.ok
    assert judged.path == "punched-tcp"
    assert judged.reason == "fell back from punched-tcp to relayed"


@pytest.mark.parametrize(
    "message",
    [{}, {"path": "lan"}, {"path": 3, "elapsed_s": 1.0}, {"path": "lan", "elapsed_s": "soon"}, {"path": None}],
)
def test_lines_that_are_no_replies_are_ignored(message: dict[str, object]) -> None:
    seen = Observation(0.0)
    seen.receive(message, 0.1)
    assert not seen.verdict(PAIR).ok


def test_paths_are_ranked_and_unknown_words_come_last() -> None:
    assert sorted(["smoke-signal", "circuit", "lan", "relayed", "punched-udp"], key=rank) == [
        "lan", "punched-udp", "relayed", "circuit", "smoke-signal",
    ]  # fmt: skip


def test_a_row_has_the_fields_of_the_results_file() -> None:
    assert list(row().to_json()) == ["a", "b", "path", "first_byte_s", "best_path_s", "ok", "reason"]


def test_runs_of_a_pair_are_put_together_with_medians_and_the_worst_path() -> None:
    runs = [row("direct", 0.1, 0.1), row("relayed", 0.3, 0.3), row("direct", 0.2, 0.2)]
    (cell,) = cells(runs)
    assert (cell.path, cell.first_byte_s, cell.runs, cell.failed) == ("relayed", 0.2, 3, 0)
    assert not cell.direct


def test_the_table_shows_path_times_and_reasons() -> None:
    text = table([row(), row(path="", first=None, best=None, b="STATEFUL", ok=False, reason="bob sulks")])
    header, good, bad = text.splitlines()
    assert header.split() == ["from", "to", "path", "first", "byte", "best", "path", "failed", "remarks"]
    assert good.split() == ["none", "EIM_APDF", "direct", "0.20", "s", "0.20", "s"]
    assert bad.split() == ["none", "STATEFUL", "-", "-", "-", "1/1", "bob", "sulks"]


def test_the_summary_counts_pairs_and_paths() -> None:
    rows = [row(), row("relayed", b="none"), row("", None, None, b="STATEFUL", ok=False, reason="no")]
    assert summary(rows) == (
        "2 of 3 pairs connected (66%), 1 without a relay (33%): 1 direct, 1 relayed"
    )  # fmt: skip
    assert list(failures(rows)) == ["none:STATEFUL failed in 1 of 1 runs: no"]


def test_one_failed_run_of_many_is_a_failed_pair() -> None:
    rows = [*(row() for _ in range(299)), row("", None, None, ok=False, reason="no")]
    assert summary(rows) == "0 of 1 pairs connected in 300 runs (0%), 0 without a relay (0%): no path"
    assert list(failures(rows)) == ["none:EIM_APDF failed in 1 of 300 runs: no"]


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_is_well_formed_and_tells_path_and_seconds() -> None:
    shown = texts(picture.svg([row("punched-tcp", 0.31, 1.25), row("direct", b="none")]))
    assert {"punched-tcp", "0.31 s", "best 1.25 s", "EIM/APDF", "direct", "0.20 s"} <= set(shown)


def test_a_failed_pair_is_red_and_has_its_reason_escaped() -> None:
    drawing = picture.svg([row("", None, None, ok=False, reason='it said "<b>" & left')])
    assert "failed" in texts(drawing)
    (title,) = ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}title")
    assert title.text == 'none to EIM_APDF: no path it said "<b>" & left'
    assert f'fill="{picture.FAILED}"' in drawing


def test_a_path_of_ones_own_is_in_the_legend() -> None:
    assert texts(picture.svg([row("carrier-pigeon")])).count("carrier-pigeon") == 2


def test_the_png_is_a_picture_of_the_same_size(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="the PNG needs resvg-py; install the dev extra")
    sentences = list(picture.write_pictures([row()], tmp_path))
    if "no fonts" in sentences[-1]:
        pytest.skip(sentences[-1])
    data = (tmp_path / "matrix.png").read_bytes()
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    drawn = ET.fromstring((tmp_path / "matrix.svg").read_text())
    assert data.startswith(b"\x89PNG\r\n")
    assert (width, height) == (int(drawn.attrib["width"]) * 2, int(drawn.attrib["height"]) * 2)


def test_without_the_extra_there_is_the_svg_and_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "matrix.png").write_bytes(b"of an earlier run")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    said = list(picture.write_pictures([row()], tmp_path))
    assert "pip install resvg-py" in said[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.svg"]
