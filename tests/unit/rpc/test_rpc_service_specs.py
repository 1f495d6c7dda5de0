"""What decorated classes declare, and which wrong uses are refused where they are written."""

from __future__ import annotations

import gc
import inspect
import typing
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica import rpc
from lattica.errors import CodecError, DecodeError, UsageError
from lattica.rpc.batch_wire import MAX_METHOD
from lattica.rpc.names import MAX_NAME_BYTES
from lattica.rpc.service import DEFAULT_THREADS, MethodSpec, spec_of


class OwnError(Exception):
    pass


@rpc.service("kinds")
class Kinds:
    @rpc.method
    async def one(self, number: int, by: float = 2.0) -> str:
        """Its text."""
        return str(number * by)

    @rpc.method
    def plain(self, text: str) -> str:
        return text.upper()

    @rpc.method
    async def results(self) -> AsyncIterator[int]:
        yield 1

    @rpc.method
    def plain_results(self) -> Iterator[int]:
        yield 1

    @rpc.method
    def promised(self) -> AsyncIterator[int]:
        return self.results()

    @rpc.method
    async def taking(self, items: AsyncIterator[int], *, start: int = 0) -> int:
        return start + sum([item async for item in items])

    @rpc.method
    async def both(self, before: str, items: AsyncIterator[int], after: str = "") -> AsyncIterator[bytes]:
        async for _ in items:
            yield b""

    @rpc.method(idempotent=True, concurrency=7, threads=3, raises=(OwnError,))
    def chosen(self, anything):  # type: ignore[no-untyped-def]
        return anything

    def private(self) -> None: ...


KINDS = spec_of(Kinds).methods


def declared(function: Callable[..., Any], name: str = "it") -> MethodSpec:
    """The spec of a service with this one method."""
    return spec_of(rpc.service("s")(type("Made", (), {name: rpc.method(function)}))).methods[name]


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does not keep its function's name."""

    async def wrapper(self: object) -> Any:
        return await function(self)

    return wrapper


@pytest.mark.parametrize(
    ("method", "is_async", "streams_requests", "streams_results"),
    [
        ("one", True, None, False),
        ("plain", False, None, False),
        ("results", True, None, True),
        ("plain_results", False, None, True),
        ("promised", False, None, True),
        ("taking", True, "items", False),
        ("both", True, "items", True),
        ("chosen", False, None, False),
    ],
)
def test_how_a_method_is_called_follows_from_how_it_is_written(
    method: str, is_async: bool, streams_requests: str | None, streams_results: bool
) -> None:
    spec = KINDS[method]
    assert (spec.is_async, spec.streams_requests, spec.streams_results) == (is_async, streams_requests, streams_results)
    assert spec.is_unary == (streams_requests is None and not streams_results)
    assert (spec.path, spec.attribute) == (f"kinds/{method}", method)


def test_only_decorated_methods_may_be_called() -> None:
    assert set(KINDS) == {"one", "plain", "results", "plain_results", "promised", "taking", "both", "chosen"}


def test_options_are_kept_and_their_defaults_are_careful() -> None:
    chosen, default = KINDS["chosen"].options, KINDS["plain"].options
    assert (chosen.idempotent, chosen.concurrency, chosen.threads, chosen.raises) == (True, 7, 3, (OwnError,))
    assert (default.idempotent, default.concurrency, default.threads, default.raises) == (
        False, None, DEFAULT_THREADS, (),
    )  # fmt: skip


async def test_a_decorated_method_is_still_a_method() -> None:
    made: Any = Kinds()  # typed as a stub has them
    assert await made.one(3) == "6.0"
    assert made.plain("a") == "A"
    assert [number async for number in made.results()] == [1]
    assert Kinds.one.__doc__ == "Its text."
    assert inspect.ismethod(made.one)


def test_arguments_are_those_of_the_signature_without_the_stream() -> None:
    both = KINDS["both"]
    assert both.names == ("before", "after")
    assert list(both.signature.parameters) == ["before", "items", "after"]
    assert KINDS["taking"].keyword_only == ("start",)
    assert KINDS["one"].args.bind((1,), {}) == (1, 2.0)
    with pytest.raises(TypeError, match=r"kinds/one\(\) missing"):
        KINDS["one"].args.bind((), {})


def test_annotations_decide_what_is_accepted() -> None:
    args, result, items = KINDS["one"].args, KINDS["results"].result, KINDS["both"].items
    assert items is not None
    assert args.decode(args.encode((1, 2.0)).body) == (1, 2.0)
    with pytest.raises(DecodeError, match="argument number of kinds/one"):
        args.decode(args.encode(("one", 2.0)).body)
    with pytest.raises(DecodeError, match="the result of kinds/results"):
        result.decode(result.encode("one").body)
    with pytest.raises(DecodeError, match="an item of kinds/both"):
        items.decode(items.encode("one").body)
    anything = KINDS["chosen"].args
    for value in ("text", 1, [1, {"a": b"b"}], None):
        assert anything.decode(anything.encode((value,)).body) == (value,)


def test_an_iterator_without_an_item_type_streams_anything() -> None:
    def it(self: object, items: AsyncIterator) -> Iterator:  # type: ignore[type-arg]
        yield 1

    spec = declared(it)
    assert (spec.streams_requests, spec.streams_results) == ("items", True)
    assert spec.items is not None
    assert spec.items.decode(spec.items.encode([1, "a"]).body) == [1, "a"]


def test_iterators_of_typing_and_annotations_that_are_no_strings_stream_as_well() -> None:
    def old(self: Any, items: Any) -> Any: ...

    for hint in (AsyncIterator[int], typing.AsyncIterator[int], Iterator[int], AsyncIterator, Iterator):
        old.__annotations__ = {"items": hint, "return": hint}
        spec = declared(old)
        assert spec.streams_results
        assert spec.streams_requests == "items"


def test_a_methods_name_is_its_attributes_and_not_its_functions() -> None:
    @rpc.service("s")
    class Wrapped:
        @rpc.method
        @logged
        async def first(self) -> None: ...

        @rpc.method
        @logged
        async def second(self) -> None: ...

        third = rpc.method(lambda self: None)
        fourth = third

    paths = {attribute: method.path for attribute, method in spec_of(Wrapped).methods.items()}
    assert paths == {name: f"s/{name}" for name in ("first", "second", "third", "fourth")}


# Names


@given(st.text(max_size=MAX_NAME_BYTES + 2))
def test_a_name_is_taken_as_it_is_or_refused(name: str) -> None:
    good = name.isprintable() and " " not in name and 0 < len(name.encode()) <= MAX_NAME_BYTES
    try:
        made = rpc.service(name)(type("Made", (), {"it": rpc.method(lambda self: None)}))
    except UsageError:
        assert not good
    else:
        assert good
        assert spec_of(made).name == name
        name.encode()  # what is printable can travel


def test_without_a_name_a_service_has_that_of_its_class() -> None:
    @rpc.service()
    class Plain:
        @rpc.method
        def it(self) -> None: ...

    assert spec_of(Plain).name == "Plain"
    assert spec_of(Plain).methods["it"].path == "Plain/it"


def test_a_path_that_no_message_can_carry_is_refused() -> None:
    longest = MAX_METHOD - len("s/")
    assert len(declared(lambda self: None, "a" * longest).path) == MAX_METHOD
    with pytest.raises(UsageError, match="too long"):
        declared(lambda self: None, "a" * (longest + 1))


# Subclasses


def test_a_subclass_serves_what_its_base_does_and_may_add_and_replace_and_remove() -> None:
    class More(Kinds):
        @rpc.method
        async def added(self) -> None: ...

        @rpc.method(idempotent=True)
        def plain(self, text: str) -> str:
            return text.lower()

        results = None  # type: ignore[assignment]

    spec = spec_of(More)
    assert spec.name == "kinds"
    assert set(spec.methods) == (set(KINDS) | {"added"}) - {"results"}
    assert spec.methods["plain"].options.idempotent
    made: Any = More()
    assert made.plain("A") == "a"
    assert spec_of(Kinds).methods["plain"] is KINDS["plain"]


def test_a_method_that_is_replaced_without_the_decorator_is_not_left_out_silently() -> None:
    class Forgot(Kinds):
        def plain(self, text: str) -> str:  # type: ignore[override]
            return text

    with pytest.raises(UsageError, match=r"Forgot\.plain .* decorate it, too"):
        spec_of(Forgot)


def test_a_spec_is_made_once_and_does_not_keep_its_class() -> None:
    assert spec_of(Kinds) is spec_of(Kinds)
    made = rpc.service("s")(type("Made", (), {"it": rpc.method(lambda self: None)}))
    spec_of(made)
    remembered = weakref.ref(made)
    del made
    gc.collect()
    assert remembered() is None


# Wrong uses


async def fine(self: object) -> None: ...


async def without_self() -> None: ...


async def with_keywords_only(*, self: object) -> None: ...


async def with_unknown_type(self: object, layer: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def with_two_streams(self: object, one: AsyncIterator[int], other: Iterator[int]) -> None: ...


async def with_any_number(self: object, *numbers: int) -> None: ...


async def with_what_cannot_travel(self: object, call: Callable[[], None]) -> None: ...


async def returning_what_cannot_travel(self: object) -> Callable[[], None]:
    return lambda: None


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (staticmethod(fine), "cannot be called by peers"),
        (classmethod(fine), "cannot be called by peers"),
        (Kinds, "cannot be called by peers"),
        ("text", "cannot be called by peers"),
        (without_self, "has no self"),
        (with_keywords_only, "has no self"),
        (with_unknown_type, "annotations of s/it cannot be resolved: name 'Missing'"),
        (with_two_streams, "2 streams of requests"),
        (with_any_number, "argument numbers of s/it .* variadic"),
        (with_what_cannot_travel, "argument call of s/it"),
        (returning_what_cannot_travel, "the result of s/it"),
    ],
)
def test_a_method_that_cannot_be_served_is_refused(function: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        declared(function)


def test_a_type_that_cannot_travel_is_a_codec_error() -> None:
    with pytest.raises(CodecError):
        declared(with_what_cannot_travel)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"threads": 0},
        {"raises": ValueError},
        {"raises": [ValueError]},
        {"raises": (ValueError("made"),)},
        {"raises": (KeyboardInterrupt,)},
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        rpc.method(**options)


def test_a_service_is_made_of_a_class_with_methods_and_with_parentheses() -> None:
    class Empty:
        def it(self) -> None: ...

    with pytest.raises(UsageError, match="has no methods"):
        rpc.service()(Empty)
    with pytest.raises(UsageError, match=r"write @rpc\.service\(\)"):
        rpc.service(Empty)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is no class"):
        rpc.service("s")(fine)  # type: ignore[type-var]
    with pytest.raises(UsageError, match="Empty is no service"):
        spec_of(Empty)
