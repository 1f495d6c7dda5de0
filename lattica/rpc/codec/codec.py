"""The two faces of the codec: one value of a declared type, and all arguments of a method."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from lattica.errors import CodecError
from lattica.rpc.codec.arrays import Buffer
from lattica.rpc.codec.wire import Encoded, Row, Slot

T = TypeVar("T")
_EMPTY: Final = inspect.Parameter.empty


class Codec(Generic[T]):
    """Encodes and decodes values of one declared type; made once, when the type is declared.

    Where ``declared`` says which type comes, it arrives as that. Where it says `typing.Any` (or nothing), the value
    says it itself, and arrives as None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime,
    date, time, timedelta, Decimal, UUID, NumPy array or torch tensor; subclasses of dict arrive as dict.

    Large arrays and bytes travel as buffers: neither side copies them where NumPy and torch allow that. A NumPy array
    over a read-only buffer is read-only. Tensors arrive on the CPU, without their gradients. A datetime with a time
    zone is the same instant in UTC when it arrives in a position declared as datetime.

    ``where`` names the place in errors, such as ``"the result of Echo.echo"``.

    Raises:
        CodecError: Values of that type can never be sent, or never be received.
    """

    def __init__(self, declared: Any, where: str) -> None:
        self._row = Row([Slot(where, Any if declared is _EMPTY else declared)], where)

    def encode(self, value: T) -> Encoded:
        """``value`` as a message.

        Raises:
            CodecError: It cannot be sent.
        """
        return _whole(self._row.encode_small((value,)))

    def encode_small(self, value: T) -> bytes | Encoded:
        """As `encode`, but the body alone if nothing travels beside it."""
        return self._row.encode_small((value,))

    def decode(self, body: Buffer, buffers: Sequence[Buffer] = ()) -> T:
        """The value that was encoded; arrays are over the memory of ``buffers``.

        Raises:
            DecodeError: It was not, or not as this type.
        """
        return self._row.decode(body, buffers)[0]  # type: ignore[no-any-return]


class ArgsCodec:
    """Encodes and decodes the arguments of one method.

    A caller may know more or fewer of the last parameters than the callee: more are ignored,
    fewer are the callee's defaults.

    ``signature`` is without ``self``; ``hints`` are the resolved annotations, and what they lack may be anything.

    Raises:
        CodecError: A parameter's type can never be sent, or the signature has ``*args`` or ``**kwargs``.
    """

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, Any], where: str) -> None:
        parameters = list(signature.parameters.values())
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise CodecError(f"argument {parameter.name} of {where}", "it is variadic; declare a list or a dict")
        self._where = where
        self._signature = signature
        self._names = tuple(signature.parameters)
        self._parameters = tuple(parameters)
        keyword_only = sum(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
        self._positional = len(parameters) - keyword_only
        self._complete = -1 if keyword_only else len(parameters)  # so many positional arguments are all there are
        self._row = Row([_slot(parameter, hints, where) for parameter in parameters], where)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """One value for each parameter, as a call with ``args`` and ``kwargs`` has them.

        Raises:
            TypeError: Python would not accept that call.
        """
        if not kwargs and len(args) == self._complete:
            return args
        values = list(args)
        unused = len(kwargs)
        for parameter in self._parameters[len(args) :]:
            if parameter.name in kwargs and parameter.kind is not parameter.POSITIONAL_ONLY:
                values.append(kwargs[parameter.name])
                unused -= 1
            elif parameter.default is not _EMPTY:
                values.append(parameter.default)
            else:
                return self._refuse(args, kwargs)
        if unused or len(args) > self._positional:
            return self._refuse(args, kwargs)
        return tuple(values)

    def _refuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        try:
            return tuple(self._signature.bind(*args, **kwargs).arguments.values())
        except TypeError as error:
            raise TypeError(f"{self._where}() {error}") from None

    def encode(self, values: tuple[Any, ...]) -> Encoded:
        """What `bind` returned, as a message.

        Raises:
            CodecError: An argument cannot be sent; it says which.
        """
        return _whole(self._row.encode_small(values))

    def encode_small(self, values: tuple[Any, ...]) -> bytes | Encoded:
        """As `encode`, but the body alone if nothing travels beside it."""
        return self._row.encode_small(values)

    def decode(self, body: Buffer, buffers: Sequence[Buffer] = ()) -> tuple[Any, ...]:
        """The value of each parameter; arrays are over the memory of ``buffers``.

        Raises:
            DecodeError: They are not arguments of this method.
        """
        return self._row.decode(body, buffers)


def _slot(parameter: inspect.Parameter, hints: Mapping[str, Any], where: str) -> Slot:
    hint = hints.get(parameter.name, Any)
    default = parameter.default
    if default is _EMPTY:
        return Slot(f"argument {parameter.name} of {where}", hint)
    if default is None:
        hint = hint | None if hint is not Any else Any  # `x: int = None`: the default is sent too
    return Slot(f"argument {parameter.name} of {where}", hint, lambda: default)


def _whole(encoded: bytes | Encoded) -> Encoded:
    return encoded if isinstance(encoded, Encoded) else Encoded(encoded)
