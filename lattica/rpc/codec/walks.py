"""Walks over values to their untyped positions, made from declared types once; types without those need none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import inspect as types_of

from lattica.rpc.codec.declared import Choice, has_any
from lattica.rpc.codec.encoding import Encoding, Walk


def make_walk(info: types_of.Type) -> Walk | None:
    """The walk for values of ``info``, or ``None`` if there is nothing to do in them."""
    return _Walks().of(info)


class _Walks:
    """The walks made so far, so that recursive types end."""

    def __init__(self) -> None:
        self._made: dict[int, Walk] = {}
        self._infos: list[types_of.Type] = []  # their ids are keys above

    def of(self, info: types_of.Type) -> Walk | None:
        if not has_any(info):
            return None
        key = id(info)
        if key not in self._made:
            self._infos.append(info)
            self._made[key] = self._later(key)  # for those within it
            self._made[key] = self._make(info)
        return self._made[key]

    def _later(self, key: int) -> Walk:
        def walk(value: Any, encoding: Encoding) -> object:
            return self._made[key](value, encoding)

        return walk

    def _make(self, info: types_of.Type) -> Walk:
        if fields := getattr(info, "fields", ()):
            return self._record(info, fields)
        match info:
            case types_of.UnionType(types=members):
                return self._union([member for member in members if has_any(member)])
            case types_of.DictType(key_type=key, value_type=value):
                return _dict(self.of(key), self.of(value))
            case types_of.TupleType(item_types=items):
                return _sequence([self.of(item) for item in items])
            case types_of.CollectionType(item_type=item):
                return _collection(self._need(item))
            case types_of.Metadata(type=base):
                return self._need(base)
            case types_of.CustomType(cls=cls) if issubclass(cls, Choice):
                return self._need(types_of.type_info(cls.rest))
        return _untyped

    def _record(self, info: types_of.Type, fields: tuple[types_of.Field, ...]) -> Walk:
        if isinstance(info, types_of.NamedTupleType):
            return _sequence([self.of(field.type) for field in fields])
        walks = {field.name: walk for field in fields if (walk := self.of(field.type))}
        if isinstance(info, types_of.TypedDictType):
            return _typed_dict(walks)
        assign = msgspec.structs.force_setattr if isinstance(info, types_of.StructType) else object.__setattr__
        return _object(info.cls, walks, assign)  # type: ignore[attr-defined]

    def _need(self, info: types_of.Type) -> Walk:
        return self.of(info) or _unchanged

    def _union(self, members: list[types_of.Type]) -> Walk:
        if any(isinstance(member, types_of.AnyType) for member in members):
            return _untyped
        walks = [(_python_type(member), self._need(member)) for member in members]

        def walk(value: Any, encoding: Encoding) -> object:
            for kind, one in walks:
                if isinstance(value, kind):
                    return one(value, encoding)
            return value

        return walk


def _python_type(info: types_of.Type) -> type | tuple[type, ...]:
    """What the values of a member of a union are instances of."""
    if cls := getattr(info, "cls", None):
        return dict if isinstance(info, types_of.TypedDictType) else cls
    if isinstance(info, types_of.DictType):
        return dict
    return (list, tuple, set, frozenset)


def _untyped(value: Any, encoding: Encoding) -> object:
    return encoding.untyped(value)


def _unchanged(value: Any, encoding: Encoding) -> object:
    return value


def _dict(key: Walk | None, element: Walk | None) -> Walk:
    def walk(value: Any, encoding: Encoding) -> object:
        if not isinstance(value, Mapping):
            return value  # the receiver says what is wrong with it
        return {
            encoding.key(name) if key else name: element(held, encoding) if element else held
            for name, held in value.items()
        }

    return walk


def _collection(element: Walk) -> Walk:
    def walk(value: Any, encoding: Encoding) -> object:
        if not isinstance(value, list | tuple | set | frozenset):
            return value
        return [element(held, encoding) for held in value]

    return walk


def _sequence(elements: list[Walk | None]) -> Walk:
    def walk(value: Any, encoding: Encoding) -> object:
        if not isinstance(value, list | tuple) or len(value) != len(elements):
            return value
        return [one(held, encoding) if one else held for one, held in zip(elements, value, strict=True)]

    return walk


def _typed_dict(fields: dict[str, Walk]) -> Walk:
    def walk(value: Any, encoding: Encoding) -> object:
        if not isinstance(value, Mapping):
            return value
        return {name: fields[name](held, encoding) if name in fields else held for name, held in value.items()}

    return walk


def _object(cls: type, fields: dict[str, Walk], assign: Callable[[Any, str, object], None]) -> Walk:
    def walk(value: Any, encoding: Encoding) -> object:
        if not isinstance(value, cls):
            return value
        twin = copy.copy(value)  # keeps its type, and so its names and tags on the wire
        for name, one in fields.items():
            assign(twin, name, one(getattr(value, name), encoding))
        return twin

    return walk
