"""Which pairs the matrix runs, in which order, and how programs are told."""

import sys

import pytest

from netlab import LabError, Nat
from netlab.matrix.kinds import KINDS, all_pairs, batches, find_kind, parse_pair
from netlab.matrix.programs import Programs, command_line


def names(pairs: list[tuple[object, object]]) -> list[str]:
    return [f"{getattr(a, 'name', '')}:{getattr(b, 'name', '')}" for a, b in pairs]


def test_all_twelve_kinds_make_seventy_eight_pairs() -> None:
    pairs = all_pairs(KINDS.values())
    assert len(KINDS) == 12
    assert len(pairs) == 78
    assert len({frozenset((a, b)) for a, b in pairs}) == 78


def test_each_nat_is_there_alone_and_above_a_home() -> None:
    for nat in Nat:
        assert KINDS[nat.name].nat is nat
        assert KINDS[nat.name].carrier is None
        assert KINDS[f"CGNAT_{nat.name}"].carrier is nat
        assert KINDS[f"CGNAT_{nat.name}"].nat is Nat.EIM_APDF


def test_only_a_public_host_is_open() -> None:
    assert [kind.name for kind in KINDS.values() if kind.open] == ["none"]


def test_a_pair_is_caller_and_called() -> None:
    assert parse_pair("EIM_APDF:none") == (KINDS["EIM_APDF"], KINDS["none"])


@pytest.mark.parametrize("text", ["none", "none:CONE", "", ":", "none:none:none"])
def test_what_is_no_pair_is_refused_by_name(text: str) -> None:
    with pytest.raises(LabError):
        parse_pair(text)


def test_an_unknown_kind_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(LabError, match="STATEFUL"):
        find_kind("CONE")


def test_runs_are_cut_where_another_kind_calls() -> None:
    kinds = [KINDS["none"], KINDS["EIM_EIF"]]
    cut = batches(all_pairs(kinds), rounds=1, most=12)
    assert [names([*batch]) for batch in cut] == [["none:none", "none:EIM_EIF"], ["EIM_EIF:EIM_EIF"]]


def test_rounds_repeat_everything_and_batches_have_a_most() -> None:
    cut = batches([parse_pair("none:none")], rounds=5, most=2)
    assert [len(batch) for batch in cut] == [2, 2, 1]


def test_optional_words_are_left_out_where_a_field_has_no_value() -> None:
    template = "node {home} [--join {relay}] --last"
    assert command_line(template, {"home": "/a b"}) == ["node", "/a b", "--last"]
    assert command_line(template, {"home": "h", "relay": "r"}) == ["node", "h", "--join", "r", "--last"]


def test_brackets_without_a_field_are_the_programs_own() -> None:
    assert command_line("node '[1, 2]' [x]", {}) == ["node", "[1, 2]", "[x]"]


def test_a_field_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(LabError, match="haus"):
        command_line("node {haus}", {"home": "h"})


def test_a_template_that_no_shell_would_take_is_refused() -> None:
    with pytest.raises(LabError, match="no command line"):
        command_line("node 'oops", {})


def test_values_are_not_split_into_words_nor_filled_in_again() -> None:
    assert command_line("node {home}", {"home": "a 'b {relay}", "relay": "r"}) == ["node", "a 'b {relay}"]


def test_the_default_programs_can_be_filled_in() -> None:
    Programs().check()
    assert command_line(Programs().status, {"python": sys.executable, "home": "h"})[0] == sys.executable
