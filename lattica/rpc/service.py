"""Plain Python classes as services: which methods peers may call, and what travels.

    @rpc.service("llm/layers-0-7")
    class Layers:
        @rpc.method(idempotent=True)
        async def forward(self, hidden: np.ndarray, position: int = 0) -> np.ndarray: ...

        @rpc.method
        async def tokens(self, prompt: str) -> AsyncIterator[str]:
            yield ...

A stub has the same methods, all async.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_args, get_origin, get_type_hints, overload
from weakref import WeakKeyDictionary

from lattica.errors import UsageError
from lattica.rpc.batch_wire import MAX_METHOD
from lattica.rpc.codec import ArgsCodec, Codec
from lattica.rpc.names import check_name

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

DEFAULT_THREADS = 16
"""Threads in which the calls of one ordinary (not async) method run."""
MAX_THREADED_CALLS = 1024
"""Calls of one ordinary method that run or wait for one of its threads; further ones are refused as busy."""
MAX_ASYNC_CALLS = 16_384
"""Calls of one async method that may be under way."""

_NAME = "__lattica_service__"
_ITERATORS: tuple[Any, ...] = (AsyncIterator, Iterator)


class Method(Generic[P, R]):
    """A method that peers may call; on an object of its class it is the function itself, bound."""

    def __init__(self, function: Callable[..., Any], options: MethodOptions) -> None:
        if isinstance(function, staticmethod | classmethod | type) or not hasattr(function, "__get__"):
            raise UsageError(f"{function!r} cannot be called by peers; decorate ordinary methods, which have a self")
        self.function = function
        self.options = options
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else self.function.__get__(instance, owner)


class UnaryMethod(Method[P, R]):
    """A method with one result; on a stub it is awaited, whatever it is at the server."""

    @overload
    def __get__(self, instance: None, owner: type) -> UnaryMethod[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        return super().__get__(instance, owner)


class StreamMethod(Method[P, R]):
    """A method with a stream of results; on a stub it is iterated with ``async for``."""

    @overload
    def __get__(self, instance: None, owner: type) -> StreamMethod[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, AsyncIterator[R]]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        return super().__get__(instance, owner)


class MethodOptions:
    """What a decorated method says of itself; see `method`."""

    __slots__ = ("concurrency", "idempotent", "raises", "threads")

    def __init__(
        self, idempotent: bool, concurrency: int | None, threads: int, raises: tuple[type[Exception], ...]
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise UsageError(f"a concurrency of {concurrency}: at least 1, or None for the default")
        if threads < 1:
            raise UsageError(f"{threads} threads: at least 1")
        if not isinstance(raises, tuple) or not all(map(_is_exception, raises)):
            raise UsageError(f"raises={raises!r}: a tuple of exception classes")
        self.idempotent = idempotent
        self.concurrency = concurrency
        self.threads = threads
        self.raises = raises


class _Decorator:
    """`method` with options."""

    def __init__(self, options: MethodOptions) -> None:
        self._options = options

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], AsyncIterator[R]]) -> StreamMethod[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Awaitable[R]]) -> UnaryMethod[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Iterator[R]]) -> StreamMethod[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R]) -> UnaryMethod[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        kind = StreamMethod if _is_stream(function) else UnaryMethod
        return kind(function, self._options)


@overload
def method(function: Callable[Concatenate[Any, P], AsyncIterator[R]], /) -> StreamMethod[P, R]: ...  # type: ignore[overload-overlap]
@overload
def method(function: Callable[Concatenate[Any, P], Awaitable[R]], /) -> UnaryMethod[P, R]: ...
@overload
def method(function: Callable[Concatenate[Any, P], Iterator[R]], /) -> StreamMethod[P, R]: ...  # type: ignore[overload-overlap]
@overload
def method(function: Callable[Concatenate[Any, P], R], /) -> UnaryMethod[P, R]: ...
@overload
def method(
    *,
    idempotent: bool = ...,
    concurrency: int | None = ...,
    threads: int = ...,
    raises: tuple[type[Exception], ...] = ...,
) -> _Decorator: ...
def method(
    function: Callable[..., Any] | None = None,
    /,
    *,
    idempotent: bool = False,
    concurrency: int | None = None,
    threads: int = DEFAULT_THREADS,
    raises: tuple[type[Exception], ...] = (),
) -> Any:
    """Let peers call a method of a `service`.

    A coroutine function or an ordinary one, which runs in threads, with one result; or a generator of either kind, for
    a stream of results. A parameter annotated ``AsyncIterator[T]`` is a stream of requests. Annotations say what
    travels, and are checked at the receiver; what has none may be any value that tells its own type.

    Args:
        function: The method.
        idempotent: Running it twice does no harm: a call whose answer is lost is sent again. Other methods
            are executed at most once, and their callers told when that cannot be known.
        concurrency: Calls that may be under way at once; further ones are refused as busy.
        threads: Threads for an ordinary function.
        raises: Exceptions of your own that callers get as themselves; Python's own are anyway. Of what they hold only
            the text arrives: they are made without their constructor.

    Raises:
        UsageError: It is no method, or an option is out of its range.
    """
    decorator = _Decorator(MethodOptions(idempotent, concurrency, threads, raises))
    return decorator if function is None else decorator(function)


def service(name: str | None = None) -> Callable[[C], C]:
    """Make a class a service, under ``name``, or its own.

    Raises:
        UsageError: No service can have that name, or no method is decorated.
    """
    if not isinstance(name, str | None):
        raise UsageError(f'{name!r} is no name of a service; write @rpc.service() or @rpc.service("name")')

    def decorate(cls: C) -> C:
        if not isinstance(cls, type):
            raise UsageError(f"{cls!r} is no class; a service is a class with methods")
        chosen = cls.__name__ if name is None else name
        check_name(chosen)
        if not _methods(cls):
            raise UsageError(f"the service {chosen} has no methods; decorate them with @rpc.method")
        setattr(cls, _NAME, chosen)
        return cls

    return decorate


class MethodSpec:
    """A method as both sides use it.

    Attributes:
        path: ``service/method``.
        attribute: Its name in the class.
        options: See `method`.
        is_async: Whether it is a coroutine function or an async generator.
        streams_requests: Name of the parameter that is a stream; ``None`` without one.
        streams_results: Whether it yields its results.
        args: For the arguments, without the stream.
        items: For the stream's items; ``None`` without one.
        result: For the result, or each result.
    """

    def __init__(self, service_name: str, attribute: str, declared: Method[Any, Any]) -> None:
        function = declared.function
        self.path = f"{service_name}/{attribute}"
        if len(self.path) > MAX_METHOD:
            raise UsageError(f"the method name {self.path[:80]!r} is too long: {MAX_METHOD} characters at most")
        self.attribute = attribute
        self.options = declared.options
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.streams_results = isinstance(declared, StreamMethod)
        hints = _hints(function, self.path)
        signature = inspect.signature(function)
        own, *parameters = signature.parameters.values() or (None,)
        if own is None or own.kind in (own.KEYWORD_ONLY, own.VAR_KEYWORD):
            raise UsageError(f"{self.path} has no self; decorate ordinary methods")
        streams = [parameter for parameter in parameters if _is_iterator(hints.get(parameter.name))]
        if len(streams) > 1:
            raise UsageError(f"{self.path} has {len(streams)} streams of requests; one is possible")
        self.streams_requests = streams[0].name if streams else None
        kept = [parameter for parameter in parameters if parameter not in streams]
        self.signature = signature.replace(parameters=parameters)
        self.args = ArgsCodec(signature.replace(parameters=kept), hints, self.path)
        self.keyword_only = tuple(parameter.name for parameter in kept if parameter.kind is parameter.KEYWORD_ONLY)
        self.names = tuple(parameter.name for parameter in kept)
        self.items = Codec[Any](_item(hints[streams[0].name]), f"an item of {self.path}") if streams else None
        result = hints.get("return", Any)
        if self.streams_results:
            result = _item(result)
        self.result = Codec[Any](result, f"the result of {self.path}")

    @property
    def is_unary(self) -> bool:
        """Whether nothing streams."""
        return not self.streams_results and self.streams_requests is None


class ServiceSpec:
    """A service as both sides use it.

    Attributes:
        name: Its name.
        methods: By attribute.
    """

    def __init__(self, cls: type, name: str | None = None) -> None:
        declared = getattr(cls, _NAME, None)
        if declared is None:
            raise UsageError(f"{cls.__name__} is no service; decorate the class with @rpc.service()")
        if name is not None:
            check_name(name)
        self.name: str = name or declared
        self.methods = {
            attribute: MethodSpec(self.name, attribute, declared) for attribute, declared in _methods(cls).items()
        }


_specs: WeakKeyDictionary[type, dict[str | None, ServiceSpec]] = WeakKeyDictionary()


def spec_of(cls: type, name: str | None = None) -> ServiceSpec:
    """What a class decorated with `service` declares.

    Args:
        cls: The class.
        name: Of the service, instead of the one that the class declares.

    Raises:
        UsageError: It is none, a method's signature cannot be served, or no service can have that name.
        CodecError: Values of a declared type cannot travel.
    """
    specs = _specs.setdefault(cls, {})
    spec = specs.get(name)
    if spec is None:
        spec = specs[name] = ServiceSpec(cls, name)
    return spec


def _methods(cls: type) -> dict[str, Method[Any, Any]]:
    found: dict[str, Method[Any, Any]] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            if isinstance(value, Method):
                found[attribute] = value
            elif callable(value) and attribute in found:
                raise UsageError(f"{base.__name__}.{attribute} replaces a method that peers may call; decorate it, too")
            else:
                found.pop(attribute, None)
    return found


def _hints(function: Callable[..., Any], path: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations are the service's own code: they may raise anything
        raise UsageError(
            f"the annotations of {path} cannot be resolved: {error}; its types have to exist when the program runs, not"
            " for the type checker alone"
        ) from error


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _is_iterator(hint: object) -> bool:
    return hint in _ITERATORS or get_origin(hint) in _ITERATORS


def _is_stream(function: Callable[..., Any]) -> bool:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        return True
    if inspect.iscoroutinefunction(function):
        return False
    hint = getattr(function, "__annotations__", {}).get("return")
    if isinstance(hint, str):
        return hint.split("[")[0].rsplit(".", 1)[-1] in {"AsyncIterator", "Iterator"}
    return _is_iterator(hint)


def _item(hint: Any) -> Any:
    arguments = get_args(hint)
    return arguments[0] if arguments else Any
