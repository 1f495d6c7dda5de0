"""Torch tensors: every dtype, device and layout arrives on the CPU, and without a copy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lattica.errors import CodecError, DecodeError
from lattica.rpc.codec import Codec

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = pytest.importorskip("numpy", reason="NumPy is optional: pip install numpy")
    torch = pytest.importorskip("torch", reason="torch is optional: pip install torch")

DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu",
]  # fmt: skip


def sent(declared: Any, value: Any) -> Any:
    codec: Codec[Any] = Codec(declared, "the value")
    encoded = codec.encode(value)
    return codec.decode(encoded.body, [memoryview(bytearray(buffer)) for buffer in encoded.buffers])


def octets(tensor: Any) -> bytes:
    return bytes(tensor.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy())


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is torch.Tensor
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.device.type == "cpu"
    assert octets(one) == octets(other)


def tensor_of(dtype: str, *shape: int) -> Any:
    kind = getattr(torch, dtype)
    if kind is torch.bool:
        return torch.arange(int(np.prod(shape))).reshape(shape) % 2 == 0
    size = int(np.prod(shape)) * kind.itemsize
    if not size:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(np.random.default_rng(1).bytes(size)), dtype=kind).reshape(shape)


@pytest.mark.parametrize("declared", [Any, torch.Tensor, torch.Tensor | None])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 5), (30, 40)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives(dtype: str, shape: tuple[int, ...], declared: Any) -> None:
    value = tensor_of(dtype, *shape)
    assert_same(sent(declared, value), value)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda tensor: tensor.T, id="transposed"),
        pytest.param(lambda tensor: tensor[::2, 1::3], id="sliced"),
        pytest.param(lambda tensor: tensor[0].expand(50, 40), id="expanded"),
        pytest.param(lambda tensor: tensor[5, 3], id="0-d"),
        pytest.param(lambda tensor: tensor.requires_grad_(), id="requires_grad"),
        pytest.param(torch.nn.Parameter, id="parameter"),
        pytest.param(lambda tensor: torch.complex(tensor, tensor).conj(), id="conjugate"),
        pytest.param(lambda tensor: torch.complex(tensor, tensor).conj().imag, id="negative"),
        pytest.param(lambda tensor: tensor[:0], id="empty"),
    ],
)
def test_every_layout_arrives(view: Any) -> None:
    value = view(torch.arange(1600, dtype=torch.float32).reshape(40, 40).clone())
    arrived = sent(Any, value)
    assert torch.equal(arrived, value.detach())
    assert type(arrived) is torch.Tensor
    assert not arrived.requires_grad


@dataclasses.dataclass
class Step:
    loss: float
    grads: dict[str, torch.Tensor]
    state: Any = None


def test_tensors_arrive_within_other_values() -> None:
    step = Step(0.5, {"w": torch.ones(200)}, [(torch.zeros(3), np.ones(2))])
    arrived = sent(Step, step)
    assert_same(arrived.grads["w"], step.grads["w"])
    ((tensor, array),) = arrived.state
    assert_same(tensor, torch.zeros(3))
    assert type(array) is np.ndarray


def test_what_state_dict_returns_arrives() -> None:
    state = torch.nn.Linear(20, 30).state_dict()
    arrived = sent(dict[str, torch.Tensor], state)
    assert arrived.keys() == state.keys()
    assert torch.equal(arrived["weight"], state["weight"])
    assert torch.equal(sent(Any, state)["bias"], state["bias"])


@pytest.mark.parametrize("size", [5, 500])
@pytest.mark.parametrize("dtype", ["float32", "bool", "int64"])
def test_arrays_and_tensors_are_converted_to_what_is_declared(dtype: str, size: int) -> None:
    tensor = tensor_of(dtype, size)
    assert_same(sent(torch.Tensor, tensor.numpy()), tensor)
    array = sent(np.ndarray, tensor)
    assert type(array) is np.ndarray
    assert array.dtype == dtype
    assert array.tobytes() == octets(tensor)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_small_floats_are_converted_through_ml_dtypes(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is optional: pip install ml_dtypes")
    tensor = tensor_of(dtype, 600)
    array = sent(np.ndarray, tensor)
    assert array.dtype == getattr(ml_dtypes, dtype)
    assert_same(sent(torch.Tensor, array), tensor)


@pytest.mark.parametrize("value", [torch.ones(300), np.ones(300), torch.ones(2), np.ones(2)])
def test_a_union_of_arrays_and_tensors_takes_each_as_it_is(value: Any) -> None:
    assert type(sent(np.ndarray | torch.Tensor, value)) is type(value)
    assert type(sent(np.ndarray | torch.Tensor | int | None, value)) is type(value)


def test_times_have_no_tensor() -> None:
    with pytest.raises(DecodeError, match="datetime64"):
        sent(torch.Tensor, np.zeros(3, "datetime64[s]"))


def test_contiguous_tensors_are_not_copied() -> None:
    value = torch.arange(1000, dtype=torch.bfloat16).reshape(10, 100)
    codec: Codec[Any] = Codec(torch.Tensor, "the value")
    encoded = codec.encode(value)
    assert len(encoded.body) < 50
    assert np.frombuffer(encoded.buffers[0], np.uint8).ctypes.data == value.data_ptr()
    memory = bytearray(encoded.buffers[0])
    arrived = codec.decode(encoded.body, [memoryview(memory)])
    assert arrived.data_ptr() == np.frombuffer(memory, np.uint8).ctypes.data


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_a_buffer_at_any_address_will_do(offset: int) -> None:
    value = torch.arange(1000, dtype=torch.float64)
    codec: Codec[Any] = Codec(torch.Tensor, "the value")
    encoded = codec.encode(value)
    memory = bytearray(offset) + bytes(encoded.buffers[0])
    assert_same(codec.decode(encoded.body, [memoryview(memory)[offset:]]), value)


def test_a_tensor_over_a_read_only_buffer_is_a_copy_that_can_be_written_to() -> None:
    codec: Codec[Any] = Codec(torch.Tensor, "the value")
    encoded = codec.encode(torch.zeros(1000))
    buffer = bytes(encoded.buffers[0])
    arrived = codec.decode(encoded.body, [memoryview(buffer)])
    arrived[0] = 1
    assert not any(buffer)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.zeros(3, device="meta"), "meta"),
        (torch.zeros([1] * 33), "33 dimensions"),
        (torch.empty(3, dtype=torch.bits8), "dtype torch.bits8"),
    ],
)
def test_tensors_that_have_no_plain_memory_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        Codec(torch.Tensor, "the value").encode(value)


def test_booleans_that_are_neither_are_refused() -> None:
    codec: Codec[Any] = Codec(torch.Tensor, "the value")
    encoded = codec.encode(torch.zeros(600, dtype=torch.bool))
    for declared in (torch.Tensor, np.ndarray):
        with pytest.raises(DecodeError, match="other bytes than 0 and 1"):
            Codec[Any](declared, "the value").decode(encoded.body, [memoryview(bytearray(b"\x02" * 600))])


def test_a_tensor_arrives_as_the_array_declared_where_torch_is_missing() -> None:
    body = Codec[Any](torch.Tensor, "the value").encode(torch.ones(3)).body
    program = f"""
import sys
from typing import Any
import numpy
sys.modules["torch"] = None
from lattica.errors import DecodeError
from lattica.rpc.codec import Codec
assert (Codec(numpy.ndarray, "the value").decode({body!r}) == numpy.ones(3)).all()
try:
    Codec(Any, "the value").decode({body!r})
except DecodeError as error:
    assert "torch is needed" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


def test_tensors_are_sent_without_numpy() -> None:
    program = """
import sys
sys.modules["numpy"] = None
import warnings
warnings.simplefilter("ignore")  # torch's own, of NumPy
import torch
from lattica.rpc.codec import Codec
codec = Codec(torch.Tensor, "the value")
for value in (torch.arange(5.0), torch.arange(500.0)):
    encoded = codec.encode(value)
    assert torch.equal(codec.decode(encoded.body, [memoryview(bytearray(b)) for b in encoded.buffers]), value)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
