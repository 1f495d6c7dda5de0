"""Where files are cut: tensors begin chunks, and every byte is in exactly one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content import MAX_CHUNK
from lattica.content.chunking import Plan, plan_file
from lattica.content.manifest_limits import MAX_RUNS
from lattica.content.publish_file import BLOCK, blocks_of


def plan_of(name: str, data: bytes) -> Plan:
    return plan_file(name, len(data), lambda length, offset: data[offset : offset + length])


def check_covers(plan: Plan, size: int) -> None:
    edges = [0, *(run.offset + run.length for run in plan.runs)]
    assert [run.offset for run in plan.runs] == edges[:-1]
    assert edges[-1] == plan.size == size
    for run in plan.runs:
        lengths = list(run.lengths())
        assert sum(lengths) == run.length
        assert all(0 < length <= MAX_CHUNK for length in lengths)
        assert all(length == run.chunk_size for length in lengths[:-1])


@given(st.lists(st.integers(0, 3 * MAX_CHUNK), max_size=5))
@settings(deadline=None, max_examples=30)
def test_no_chunk_spans_two_tensors(sizes: list[int]) -> None:
    data = safetensors.numpy.save({f"t{n}": np.zeros(size, np.uint8) for n, size in enumerate(sizes)})
    plan = plan_of("model.safetensors", data)
    check_covers(plan, len(data))
    assert plan.warning is None
    assert plan.runs[0].tensor is None
    assert {(r.tensor.name, r.length) for r in plan.runs if r.tensor} == {(f"t{n}", s) for n, s in enumerate(sizes)}


@given(st.integers(0, 5 * MAX_CHUNK))
@settings(deadline=None)
def test_other_files_are_cut_every_mebibyte(size: int) -> None:
    plan = plan_file("tokenizer.json", size, lambda length, offset: pytest.fail("it need not be read"))
    check_covers(plan, size)
    assert len(plan.runs) == (1 if size else 0)
    assert plan.warning is None


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 100, (2).to_bytes(8, "little") + b"{}tail"])
def test_a_corrupt_header_gives_plain_chunks_and_a_warning_that_names_the_file(data: bytes) -> None:
    plan = plan_of("deep/model.SafeTensors", data)
    check_covers(plan, len(data))
    assert len(plan.runs) == (1 if data else 0)
    assert plan.warning is not None
    assert plan.warning.startswith("deep/model.SafeTensors: ")


def test_more_tensors_than_a_manifest_holds_give_plain_chunks_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.content.chunking.MAX_RUNS", 3)
    two = safetensors.numpy.save({"a": np.zeros(4), "b": np.zeros(4)})
    three = safetensors.numpy.save({"a": np.zeros(4), "b": np.zeros(4), "c": np.zeros(4)})
    assert plan_of("m.safetensors", two).warning is None
    plan = plan_of("m.safetensors", three)
    check_covers(plan, len(three))
    assert len(plan.runs) == 1
    assert plan.warning is not None
    assert "more than 2 tensors" in plan.warning
    assert MAX_RUNS > 91_991, "DeepSeek-V3 must fit"


@given(st.lists(st.integers(0, 2 * BLOCK), max_size=12) | st.lists(st.integers(0, 5000), max_size=300))
@settings(deadline=None, max_examples=50)
def test_blocks_are_all_chunks_in_order(sizes: list[int]) -> None:
    arrays = {f"t{n:03}": np.zeros(size, np.uint8) for n, size in enumerate(sizes)}
    plan = plan_of("m.safetensors", safetensors.numpy.save(arrays))
    blocks = list(blocks_of(plan))
    planned = [(number, length) for number, run in enumerate(plan.runs) for length in run.lengths()]
    assert [chunk for block in blocks for chunk in block.chunks] == planned
    assert all(0 < block.length <= BLOCK for block in blocks)
    assert all(block.length == sum(length for _, length in block.chunks) for block in blocks)
    assert all(a.offset + a.length == b.offset for a, b in pairwise(blocks))
    assert blocks[0].offset == 0
    assert blocks[-1].offset + blocks[-1].length == plan.size
