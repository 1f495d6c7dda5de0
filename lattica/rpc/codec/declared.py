"""Declared types, made into what msgspec takes: which of them it leaves to us, and where anything may come."""

from __future__ import annotations

import sys
import types
from collections import abc
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from msgspec import inspect as types_of

Convert: TypeAlias = Callable[[Any], object]
"""Makes the value of a type that msgspec does not know from what arrived for it; ``ValueError`` if it cannot."""

_REBUILT: Final = frozenset(
    {
        list, set, frozenset, tuple, dict,
        abc.Sequence, abc.MutableSequence, abc.Collection, abc.Set, abc.MutableSet, abc.Mapping, abc.MutableMapping,
    }
)  # fmt: skip
"""Generic types whose arguments are looked into."""


class _AnyInstance(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return True


class Choice(metaclass=_AnyInstance):
    """Stands for a union that msgspec does not take: arrays and other types. Each union is a class of its own.

    Attributes:
        customs: The members that are left to us.
        rest: The union of all others, or ``None`` if there are none.
        bytes_kind: What bytes that came as a buffer are to be made into.
    """

    customs: tuple[Any, ...] = ()
    rest: Any = None
    bytes_kind: type | None = None


def make_choice(customs: Iterable[Any], rest: Iterable[Any], *, bytes_kind: type | None = None) -> type[Choice]:
    """The class that stands for the union of both."""
    others = tuple(rest)
    union = Union[others] if others else None  # noqa: UP007  made at run time
    members = {"customs": tuple(customs), "rest": union, "bytes_kind": bytes_kind}
    return types.new_class("Choice", (Choice,), {}, lambda body: body.update(members))


def adapt(hint: Any) -> Any:
    """``hint`` with what msgspec refuses replaced by what it leaves to us."""
    if hint is object:
        return Any
    origin = get_origin(hint)
    if origin is Union or origin is types.UnionType:
        return _adapt_union([adapt(member) for member in get_args(hint)])
    if origin is Annotated:
        base, *metadata = get_args(hint)
        return Annotated[(adapt(base), *metadata)]
    if origin in _REBUILT and get_args(hint):
        return origin[tuple(argument if argument is ... else adapt(argument) for argument in get_args(hint))]
    return hint


def _adapt_union(members: list[Any]) -> Any:
    customs = [member for member in members if custom_kind(member)]
    rest = [member for member in members if not custom_kind(member)]
    if Any in rest:
        return Any
    if len(customs) > 1 or (customs and any(member is not types.NoneType for member in rest)):
        return make_choice(customs, rest)
    return Union[tuple(members)]  # noqa: UP007  made at run time


def custom_kind(hint: Any) -> str | None:
    """Which of the types that we know and msgspec does not ``hint`` is: ndarray, tensor, scalar, message, choice."""
    cls = get_origin(hint) or hint
    if not isinstance(cls, type):
        return None
    for kind, module, name in _CUSTOM:
        package = sys.modules.get(module)
        base = getattr(package, name, None)
        if base is not None and (cls is base or (kind == "message" and issubclass(cls, base))):
            return kind
    if issubclass(cls, Choice):
        return "choice"
    return "scalar" if _is_number(cls) else None


def _is_number(cls: type) -> bool:
    """Whether ``cls`` is one of NumPy's (or ml_dtypes') scalars that a Python number makes."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not issubclass(cls, numpy.generic):
        return False
    return not issubclass(cls, (numpy.flexible, numpy.object_, numpy.datetime64, numpy.timedelta64))


_CUSTOM: Final = (
    ("ndarray", "numpy", "ndarray"),
    ("tensor", "torch", "Tensor"),
    ("message", "google.protobuf.message", "Message"),
)


def info_of(adapted: Any) -> types_of.Type:
    """What msgspec knows of ``adapted``.

    Raises:
        TypeError: Nothing of that type can be received; the message says why.
    """
    info = types_of.type_info(adapted)
    for part in parts(info):
        if isinstance(part, types_of.CustomType) and not custom_kind(part.cls):
            raise TypeError(f"the type {part.cls.__module__}.{part.cls.__qualname__} has no form on the wire")
        if isinstance(part, types_of.ExtType | types_of.RawType):
            raise TypeError("msgspec's Raw and Ext are for those who know what they hold")
    return info


def parts(info: types_of.Type) -> Iterator[types_of.Type]:
    """``info`` and all types within it, each once."""
    seen: set[int] = set()
    waiting = [info]
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting.extend(inner(part))


def inner(info: types_of.Type) -> list[types_of.Type]:
    """The types directly within ``info``."""
    match info:
        case types_of.UnionType(types=members):
            return list(members)
        case types_of.TupleType(item_types=items):
            return list(items)
        case types_of.DictType(key_type=key, value_type=value):
            return [key, value]
        case types_of.CollectionType(item_type=item):
            return [item]
        case types_of.Metadata(type=base):
            return [base]
        case types_of.CustomType(cls=cls) if issubclass(cls, Choice):
            return [types_of.type_info(member) for member in (*cls.customs, *([cls.rest] if cls.rest else []))]
    return [field.type for field in getattr(info, "fields", ())]


def has_any(info: types_of.Type) -> bool:
    """Whether a value of any type may be somewhere in one of ``info``."""
    return any(isinstance(part, types_of.AnyType) for part in parts(info))


def custom_kinds(info: types_of.Type) -> frozenset[str]:
    """The kinds of types in ``info`` that are left to us."""
    return frozenset(
        kind for part in parts(info) if isinstance(part, types_of.CustomType) and (kind := custom_kind(part.cls))
    )


def is_recursive(info: types_of.Type) -> bool:
    """Whether a value of ``info`` may hold one of the same type, to any depth."""
    done: dict[int, bool] = {}  # False: it is being looked into

    def cyclic(part: types_of.Type) -> bool:
        if id(part) in done:
            return not done[id(part)]
        done[id(part)] = False
        found = any(map(cyclic, inner(part)))
        done[id(part)] = True
        return found

    return cyclic(info)


def takes_anything(info: types_of.Type) -> bool:
    """Whether ``info`` is untyped at its top."""
    return isinstance(info, types_of.AnyType) or (
        isinstance(info, types_of.UnionType) and any(map(takes_anything, info.types))
    )


def takes_bytes(info: types_of.Type) -> type | None:
    """The bytes-like type that ``info`` takes at its top, if it does."""
    for member in info.types if isinstance(info, types_of.UnionType) else (info,):
        match member:
            case types_of.MemoryViewType():
                return memoryview
            case types_of.BytesType():
                return bytes
            case types_of.ByteArrayType():
                return bytearray
    return None
