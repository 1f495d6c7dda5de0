"""Containers of documents whose methods run in the node's loop, and can be called from any thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Protocol, TypeVar

from lattica.store import Container, DocumentHost

C = TypeVar("C", bound=Container)
T = TypeVar("T")

_SPECIAL = frozenset(
    ("__len__", "__iter__", "__contains__", "__getitem__", "__setitem__", "__delitem__", "__reversed__", "__str__")
)


class Runner(Protocol):
    """Runs a function where the document is, and returns or raises what it does."""

    def __call__(self, operation: Callable[[], T], /) -> T:
        """Run it."""


def blocking(kind: type[C], host: DocumentHost, name: str, run: Runner) -> C:
    """A container of this kind, of which every method and property runs as a whole where ``run`` runs it.

    Iterators and views that it returns are copies: they do not change with the document.
    """
    if kind not in _CLASSES:
        _CLASSES[kind] = _blocking_class(kind)
    container = _CLASSES[kind](host, name)
    container.__dict__["_run"] = run
    assert isinstance(container, kind)  # noqa: S101 - tells the type checker
    return container


_CLASSES: dict[type[Container], type[Container]] = {}


def _blocking_class(kind: type[Container]) -> type[Container]:
    members: dict[str, object] = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name in Container.__dict__ or (name.startswith("_") and name not in _SPECIAL):
            continue
        if isinstance(member, property) and member.fget is not None:
            members[name] = property(_running(member.fget))
        elif inspect.isfunction(member):
            members[name] = _running(member)
    return type(kind.__name__, (kind,), members)


def _running(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The caller's iterators may wait for anything: not in the loop.
        args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
        return self._run(lambda: _copied(method(self, *args, **kwargs)))

    return call


def _copied(result: Any) -> Any:
    if isinstance(result, Iterator):
        return iter(list(result))
    if isinstance(result, ItemsView):
        return dict(result).items()
    if isinstance(result, KeysView):
        return dict.fromkeys(result).keys()
    if isinstance(result, ValuesView):
        return dict(enumerate(result)).values()
    return result
