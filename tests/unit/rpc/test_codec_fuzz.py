"""Whatever bytes arrive, decoding them gives a value or a `DecodeError`, and nothing else."""

from __future__ import annotations

import dataclasses
import enum
import random
import warnings
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import DecodeError
from lattica.rpc.codec import Codec, Encoded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
else:
    np = pytest.importorskip("numpy", reason="NumPy is optional: pip install numpy")
    npt = pytest.importorskip("numpy.typing", reason="NumPy is optional: pip install numpy")
    torch = pytest.importorskip("torch", reason="torch is optional: pip install torch")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Leaf:
    colour: Colour
    at: datetime
    numbers: set[int]
    price: Decimal
    key: UUID
    day: date
    clock: time
    span: timedelta


class Pair(NamedTuple):
    left: int
    right: Any


class Options(TypedDict, total=False):
    count: int


class Branch(msgspec.Struct):
    leaves: list[Leaf]
    pair: Pair
    options: Options
    weights: npt.NDArray[np.float32]
    grads: torch.Tensor | None
    bias: np.ndarray | None
    message: Struct
    view: memoryview
    anything: Any
    within: Branch | None = None


NAIVE = datetime.fromisoformat("2020-01-01")
LEAF = Leaf(Colour.RED, NAIVE, {1, 2}, Decimal("1.5"), UUID(int=7), date(2020, 1, 1), time(1), timedelta(1))
UNTYPED: list[Any] = [
    None, True, -7, 2**63, 0.5, "text", b"bytes", (1, (2.5, {3}), frozenset({"x", (1,)})),
    NAIVE, date(2020, 1, 1), time(1, 2), timedelta(1, 2, 3), Decimal("1e5"), UUID(int=5), {"a": [1], 2: None, b"c": {}},
    np.arange(6).reshape(2, 3), np.zeros(()), np.float32(1.5), np.zeros(3, "datetime64[s]"), np.array([True, False]),
    torch.ones(2, 2), torch.zeros(3, dtype=torch.bfloat16), np.zeros(600, np.uint8), torch.zeros(600, dtype=torch.bool),
    b"x" * (64 << 10),
]  # fmt: skip
BRANCH = Branch(
    [LEAF, LEAF], Pair(1, (2, {3})), {"count": 3}, np.ones((3, 4), np.float32), torch.ones(300), np.ones(3), Struct(),
    memoryview(b"view"), UNTYPED,
)  # fmt: skip
CASES: list[tuple[Any, Any]] = [
    *((Any, value) for value in UNTYPED),
    (Any, UNTYPED),
    (Branch, msgspec.structs.replace(BRANCH, within=BRANCH)),
    (list[Leaf], [LEAF] * 3),
    (bytes | None, b"x" * (64 << 10)),
    (npt.NDArray[np.float32] | int | None, np.ones(300, np.float32)),
    (list[np.ndarray | torch.Tensor | Leaf | str | None], [np.ones(3), torch.ones(300), LEAF, "x", None]),
    (dict[str, torch.Tensor], {"a": torch.ones(300), "b": torch.ones(3)}),
    (list[int | str], [1, "x", 2**64 - 1]),
]
CODECS: list[Codec[Any]] = [Codec(declared, "the value") for declared, _ in CASES]
MESSAGES = [codec.encode(value) for codec, (_, value) in zip(CODECS, CASES, strict=True)]
MARKERS = bytes([0x80, 0x90, 0xA0, *range(0xC0, 0xE0), 0xFF, 0x7F, *range(16)])


def survives(codec: Codec[Any], body: bytes, buffers: Sequence[bytes | memoryview]) -> bool:
    """Whether ``body`` is a value; it may be anything, but not raise another error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of numbers that a dtype cannot hold
        try:
            repr(codec.decode(body, buffers))  # so that what cannot be read does not pass for a value
        except DecodeError as error:
            str(error)
            return False
    return True


def mutated(dice: random.Random, body: bytes) -> bytes:
    """``body`` with a few bytes changed, added, removed, or moved."""
    octets = bytearray(body)
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        at = dice.randrange(len(octets) + 1)
        match dice.randrange(7):
            case 0 if octets:
                octets[at % len(octets)] = dice.randrange(256)
            case 1 if octets:
                octets[at % len(octets)] = dice.choice(MARKERS)
            case 2 if octets:
                octets[at % len(octets)] ^= 1 << dice.randrange(8)
            case 3:
                octets[at:at] = dice.choices(MARKERS, k=dice.randrange(1, 5))
            case 4:
                del octets[at : at + dice.randrange(1, 9)]
            case 5:
                start = dice.randrange(len(octets) + 1)
                octets[at:at] = octets[start : start + dice.randrange(40)]
            case 6:
                del octets[at:]
    return bytes(octets)


def mutated_buffers(dice: random.Random, message: Encoded) -> list[bytes | memoryview]:
    buffers: list[bytes | memoryview] = [memoryview(bytearray(buffer)) for buffer in message.buffers]
    match dice.randrange(6):
        case 0 if buffers:
            buffers.pop()
        case 1:
            buffers.append(b"x" * dice.randrange(1000))
        case 2 if buffers:
            at = dice.randrange(len(buffers))
            buffers[at] = memoryview(dice.randbytes(len(buffers[at])))
        case 3:
            dice.shuffle(buffers)
    return buffers


def fuzz(seed: int, rounds: int) -> None:
    dice = random.Random(seed)
    decoded = 0
    for number in range(rounds):
        at = number % len(CODECS)
        message = MESSAGES[at]
        body = mutated(dice, message.body) if dice.random() < 0.9 else dice.randbytes(dice.randrange(200))
        codec = CODECS[at] if dice.random() < 0.8 else dice.choice(CODECS)
        decoded += survives(codec, body, mutated_buffers(dice, message))
    assert 0 < decoded < rounds  # the mutations are neither too gentle nor too rough to find anything


def test_the_messages_that_are_mutated_are_valid() -> None:
    for codec, message in zip(CODECS, MESSAGES, strict=True):
        assert survives(codec, message.body, [memoryview(bytearray(buffer)) for buffer in message.buffers])


def test_mutated_messages_are_values_or_decode_errors() -> None:
    fuzz(seed=1, rounds=3000)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(4))
def test_very_many_mutated_messages_are_values_or_decode_errors(seed: int) -> None:
    fuzz(seed=100 + seed, rounds=50_000)


@given(st.sampled_from(CODECS), st.binary(max_size=300), st.lists(st.binary(max_size=700), max_size=3))
def test_any_bytes_are_values_or_decode_errors(codec: Codec[Any], body: bytes, buffers: list[bytes]) -> None:
    survives(codec, b"\x91" + body, buffers)
