"""Arguments: bound as Python would, tolerant of older and newer callers, and clear about what is wrong."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import CodecError, DecodeError
from lattica.rpc.codec import ArgsCodec, Codec


def args_of(function: Callable[..., Any]) -> ArgsCodec:
    return ArgsCodec(inspect.signature(function), get_type_hints(function), f"Echo.{function.__name__}")


def nothing() -> None: ...
def echo(data: bytes) -> None: ...
def add(a: int, b: int) -> None: ...
def load(layer: int, /, name: str = "x", *, scale: float = 1.0, extra: Any = None) -> None: ...
def untyped(a, b=3) -> None: ...  # type: ignore[no-untyped-def]


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except TypeError:
        return TypeError


FUNCTIONS = [nothing, echo, add, load, untyped]
NAMES = st.sampled_from(["a", "b", "data", "layer", "name", "scale", "extra"])


@given(st.sampled_from(FUNCTIONS), st.lists(st.integers(), max_size=4), st.dictionaries(NAMES, st.integers()))
def test_arguments_are_bound_as_python_binds_them(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    def python() -> tuple[Any, ...]:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    codec = args_of(function)
    assert outcome(lambda: codec.bind(tuple(args), kwargs)) == outcome(python)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"Echo.add\(\) missing a required argument: 'b'"):
        args_of(add).bind((1,), {})
    with pytest.raises(TypeError, match=r"Echo.add\(\) got an unexpected keyword argument 'c'"):
        args_of(add).bind((1, 2), {"c": 3})
    with pytest.raises(TypeError, match=r"Echo.add\(\) multiple values for argument 'a'"):
        args_of(add).bind((1, 2), {"a": 3})


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (nothing, ()),
        (echo, (b"x" * 128,)),
        (echo, (b"x" * (1 << 20),)),
        (add, (3, 2)),
        (load, (1, "y", 0.5, {"a": (1, 2)})),
        (untyped, ({1, 2}, [None])),
    ],
)
def test_arguments_arrive(function: Callable[..., Any], values: tuple[Any, ...]) -> None:
    codec = args_of(function)
    encoded = codec.encode(values)
    assert codec.decode(encoded.body, encoded.buffers) == values
    small = codec.encode_small(values)
    assert small == (encoded if encoded.buffers else encoded.body)


def test_more_parameters_than_fit_msgpacks_short_form_arrive() -> None:
    def many(
        a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int,
        i: int, j: int, k: int, l: int, m: int, n: int, o: int, p: int, q: int,  # noqa: E741
    ) -> None: ...  # fmt: skip

    codec = args_of(many)
    values = tuple(range(17))
    assert codec.decode(codec.encode(values).body) == values


def old(a: int) -> None: ...
def new(a: int, b: str = "default", *, c: Any = None, d: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013


def test_what_an_older_caller_does_not_send_is_the_default() -> None:
    body = args_of(old).encode((1,)).body
    assert args_of(new).decode(body) == (1, "default", None, None)


@pytest.mark.parametrize("extra", [None, [(1, 2)], b"x" * (1 << 17), [b"x" * (1 << 17)]])
def test_what_a_newer_caller_sends_beyond_is_ignored(extra: Any) -> None:
    encoded = args_of(new).encode((1, "x", extra, None))
    assert args_of(old).decode(encoded.body, encoded.buffers) == (1,)


def test_fields_of_a_newer_dataclass_are_ignored_with_their_buffers() -> None:
    @dataclasses.dataclass
    class Old:
        a: int

    @dataclasses.dataclass
    class New:
        a: int
        b: Any

    encoded = Codec[Any](New, "the value").encode(New(1, ({"x": b"y" * (1 << 17)},)))
    assert Codec[Any](Old, "the value").decode(encoded.body, encoded.buffers) == Old(1)


def test_a_missing_argument_without_a_default_is_named() -> None:
    with pytest.raises(DecodeError, match=r"(?i)Echo.add.*length"):
        args_of(add).decode(args_of(old).encode((1,)).body)


def test_a_default_is_the_callees_own_object() -> None:
    shared: list[int] = [1]

    def keeps(a: int, b: list[int] = shared) -> None: ...

    assert args_of(keeps).decode(args_of(old).encode((1,)).body)[1] is shared


class Kind(enum.Enum):
    A = 1


@dataclasses.dataclass
class Point:
    x: int


class Record(msgspec.Struct):
    x: int


class Pair(NamedTuple):
    x: int


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "builtins.object have no form on the wire"),
        (lambda: 1, "function have no form"),
        (1j, "complex have no form"),
        (2**64, "64"),
        (-(2**63) - 1, "64"),
        ("\ud800", "surrogates"),
        (Point(1), "Point where the declared type is Any.*annotate"),
        ([{"a": Point(1)}], "Point where the declared type is Any"),
        (Record(1), "Record where the declared type is Any"),
        (Kind.A, "Kind where the declared type is Any"),
        (Pair(1), "Pair where the declared type is Any"),
        (Struct(), "Struct where the declared type is Any"),
        ({(1, 2): 3}, "a key of type tuple"),
        ({Kind.A: 3}, "a key of type Kind"),
        ({1, Kind.A}, "Kind where"),
        (iter([]), "list_iterator have no form"),
    ],
)
def test_what_has_no_form_on_the_wire_is_an_error_at_the_sender_that_names_the_argument(
    value: Any, reason: str
) -> None:
    with pytest.raises(CodecError, match=f"^argument extra of Echo.load cannot be sent: .*{reason}"):
        args_of(load).encode((1, "x", 1.0, value))
    with pytest.raises(CodecError, match=f"^argument a of Echo.untyped cannot be sent: .*{reason}"):
        args_of(untyped).encode_small((value, 5))


@pytest.mark.parametrize("value", [object(), 2**64, [1j], {"a": object()}])
def test_so_it_is_in_a_typed_position(value: Any) -> None:
    with pytest.raises(CodecError, match=r"^argument b of Echo.add cannot be sent: "):
        args_of(add).encode_small((1, value))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (("x", "y", 1.0, None), "argument layer of Echo.load was received malformed: Expected `int`, got `str`"),
        ((1, 5, 1.0, None), "argument name of Echo.load was received malformed: Expected `str`, got `int`"),
    ],
)
def test_a_value_of_another_type_than_declared_is_an_error_at_the_receiver_that_names_the_argument(
    value: tuple[Any, ...], place: str
) -> None:
    encoded = args_of(load).encode(value)
    with pytest.raises(DecodeError, match=place):
        args_of(load).decode(encoded.body)


def test_the_place_within_an_argument_is_named() -> None:
    def plot(points: dict[str, list[Point]]) -> None: ...

    def other(points: Any) -> None: ...

    body = args_of(other).encode(({"a": [{"x": 1}, {"x": "y"}]},)).body
    with pytest.raises(DecodeError, match=r"argument points of Echo.plot .* at `\[\.\.\.\]\[1\]\.x`"):
        args_of(plot).decode(body)


def variadic(*values: int) -> None: ...
def keywords(**values: int) -> None: ...
def callback(then: Callable[[int], int]) -> None: ...
def impossible(value: int | Point | Record) -> None: ...
def an_object(value: list[inspect.Signature]) -> None: ...
def raw(value: msgspec.Raw) -> None: ...


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (variadic, "argument values of Echo.variadic cannot be sent: it is variadic"),
        (keywords, "argument values of Echo.keywords cannot be sent: it is variadic"),
        (callback, "argument then of Echo.callback cannot be sent: .*Callable has no form"),
        (an_object, "argument value of Echo.an_object cannot be sent: .*Signature has no form"),
        (impossible, "argument value of Echo.impossible cannot be sent: .*union"),
        (raw, "argument value of Echo.raw cannot be sent: .*Raw"),
    ],
)
def test_a_type_that_can_never_be_sent_is_an_error_where_it_is_declared(
    function: Callable[..., Any], reason: str
) -> None:
    with pytest.raises(CodecError, match=reason):
        args_of(function)
