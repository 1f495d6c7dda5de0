"""How the exceptions of a peer's methods travel, and as what they arrive."""

from __future__ import annotations

import builtins

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import (
    DeadlineExceededError,
    DecodeError,
    LatticaError,
    NoSuchMethodError,
    OutcomeUnknownError,
    RemoteError,
    RpcError,
    ServerBusyError,
    UnsendableResultError,
)
from lattica.rpc import batch_wire as wire
from lattica.rpc.remote_errors import error_of, failure_of, remote_error

METHOD = "llm/forward"


class OwnError(Exception):
    pass


class ParticularError(Exception):
    def __init__(self, layer: int) -> None:
        super().__init__(f"layer {layer}")
        self.layer = layer


class WithoutTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class UncombinedError(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


def travelled(error: BaseException, *declared: type[Exception], with_traceback: bool = False) -> LatticaError:
    """The error as its caller gets it."""
    failure = failure_of(3, error, with_traceback=with_traceback)
    [arrived] = wire.decode_responses(wire.encode_responses([], [failure], [], 0))[0].failures
    assert arrived == failure
    return error_of(METHOD, arrived, declared)


def python_exceptions() -> list[type[Exception]]:
    """Those that mean nothing to the machinery between."""
    return sorted(
        {
            kind
            for kind in vars(builtins).values()
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning | UnicodeError)
        }
        - {Exception, ExceptionGroup, StopIteration, StopAsyncIteration},
        key=lambda kind: kind.__name__,
    )


@pytest.mark.parametrize("kind", python_exceptions())
def test_pythons_exceptions_arrive_as_themselves_and_can_be_read(kind: type[Exception]) -> None:
    text = "no such layer"
    arrived = travelled(kind(text))
    assert isinstance(arrived, RemoteError)
    assert isinstance(arrived, kind)
    assert (arrived.method, arrived.kind, arrived.traceback) == (METHOD, kind.__name__, "")
    assert text in arrived.message
    assert str(arrived).startswith(f"{METHOD} raised {kind.__name__}: ")
    assert arrived.args == (METHOD, kind.__name__, arrived.message, "")


def test_an_error_of_the_system_claims_no_number_or_file_of_ours() -> None:
    arrived = travelled(FileNotFoundError(2, "No such file", "weights.bin"))
    assert isinstance(arrived, FileNotFoundError)
    assert (arrived.errno, arrived.strerror, arrived.filename) == (None, None, None)
    assert "weights.bin" in str(arrived)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, Exception])
def test_what_would_mean_something_to_the_machinery_is_a_remote_error_only(kind: type[Exception]) -> None:
    arrived = travelled(kind("x"))
    assert type(arrived) is RemoteError
    assert arrived.kind == kind.__name__


def test_a_group_of_exceptions_is_told_as_text() -> None:
    arrived = travelled(ExceptionGroup("both", [ValueError("a"), KeyError("b")]))
    assert type(arrived) is RemoteError
    assert arrived.message == "both (2 sub-exceptions)"


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "RemoteError", "print", "os", ""])
def test_a_peer_cannot_have_any_other_class_made(kind: str) -> None:
    assert type(remote_error(METHOD, wire.Failure(0, wire.RAISED, kind, "x"))) is RemoteError


def test_declared_exceptions_arrive_as_themselves_whatever_their_constructor_takes() -> None:
    own = travelled(OwnError("mine"), ParticularError, OwnError)
    assert isinstance(own, RemoteError)
    assert issubclass(type(own), OwnError)
    particular = travelled(ParticularError(7), ParticularError, OwnError)
    assert issubclass(type(particular), ParticularError)
    assert str(particular) == f"{METHOD} raised ParticularError: layer 7"


def test_an_exception_that_is_not_declared_is_a_remote_error_with_its_name() -> None:
    arrived = travelled(OwnError("mine"), ParticularError)
    assert type(arrived) is RemoteError
    assert arrived.kind == "OwnError"


def test_a_declared_exception_goes_before_pythons_of_the_same_name() -> None:
    mine = type("ValueError", (Exception,), {})
    arrived = travelled(ValueError("x"), mine)
    assert isinstance(arrived, mine)
    assert not isinstance(arrived, ValueError)


def test_a_class_that_cannot_be_combined_is_a_remote_error() -> None:
    arrived = travelled(UncombinedError("x"), UncombinedError)
    assert type(arrived) is RemoteError
    assert arrived.kind == "UncombinedError"


def test_the_same_class_is_made_once() -> None:
    assert type(travelled(ValueError("a"))) is type(travelled(ValueError("b")))
    assert type(travelled(OwnError("a"), OwnError)) is type(travelled(OwnError("b"), OwnError))


def test_an_exception_without_a_text_is_told_all_the_same() -> None:
    arrived = travelled(WithoutTextError(), with_traceback=True)
    assert isinstance(arrived, RemoteError)
    assert arrived.message == "(its text cannot be made)"
    assert "WithoutTextError" in arrived.traceback


def test_the_traceback_says_where_and_why_if_it_is_asked_for() -> None:
    def innermost() -> None:
        raise ValueError("no") from KeyError("because")

    with pytest.raises(ValueError, match="no") as caught:
        innermost()
    arrived = travelled(caught.value, with_traceback=True)
    assert isinstance(arrived, RemoteError)
    assert "in innermost" in arrived.traceback
    assert "because" in arrived.traceback
    assert "at the peer:\n" in str(arrived)
    assert "in innermost" not in str(travelled(caught.value))


def test_a_long_traceback_keeps_its_end() -> None:
    arrived = travelled(ValueError("x" * wire.MAX_DETAIL + "the end"), with_traceback=True)
    assert isinstance(arrived, RemoteError)
    assert len(arrived.traceback) == wire.MAX_DETAIL
    assert arrived.traceback.endswith("the end\n")


any_text = st.lists(st.characters() | st.sampled_from("\ud800\udcff"), max_size=60).map("".join)
"""Lone surrogates, too, which no message can carry."""


@given(any_text, any_text, st.integers(1, 1000), st.booleans())
def test_any_exception_can_travel(name: str, text: str, times: int, with_traceback: bool) -> None:
    kind = type("Kind", (Exception,), {})
    kind.__qualname__ = name * times
    arrived = travelled(kind(text * times), with_traceback=with_traceback)
    assert isinstance(arrived, RemoteError)
    assert len(arrived.kind) <= wire.MAX_METHOD
    assert len(arrived.message) <= wire.MAX_DETAIL
    if (text * times).isprintable():
        assert arrived.message == (text * times)[: wire.MAX_DETAIL]


def test_a_file_name_that_is_no_unicode_can_be_read_in_the_error() -> None:
    arrived = travelled(ValueError("bad name: caf\udce9.bin"))
    assert isinstance(arrived, RemoteError)
    assert arrived.message == r"bad name: caf\udce9.bin"


# Failures that are none of the method's


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (wire.BUSY, ServerBusyError, "llm/forward was not begun: the reason"),
        (wire.NO_METHOD, NoSuchMethodError, "does not serve llm/forward"),
        (wire.EXPIRED, DeadlineExceededError, "llm/forward did not end"),
        (wire.BAD_CALL, DecodeError, "the place was received malformed: the reason"),
        (wire.BAD_RESULT, UnsendableResultError, "llm/forward was executed, but the place cannot be sent: the reason"),
        (wire.FORGOTTEN, OutcomeUnknownError, "it was executed, but the reason"),
        (wire.RAISED, RemoteError, "llm/forward raised the place: the reason"),
        (0, RpcError, "unknown reason (0): the reason"),
        (99, RpcError, "unknown reason (99): the reason"),
    ],
)
def test_each_failure_is_an_error_that_says_what_happened(code: int, kind: type[LatticaError], text: str) -> None:
    error = error_of(METHOD, wire.Failure(0, code, "the place", "the reason"))
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize(("code", "text"), [(wire.BAD_CALL, "an argument of"), (wire.BAD_RESULT, "its result")])
def test_a_failure_without_a_place_names_one(code: int, text: str) -> None:
    assert text in str(error_of(METHOD, wire.Failure(0, code, "", "the reason")))
