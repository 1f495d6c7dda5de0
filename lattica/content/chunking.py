"""Where a file is cut into runs and chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from lattica.content.manifest_limits import MAX_CHUNK, MAX_RUNS
from lattica.content.safetensors import BadHeaderError, TensorInfo, read_header

SAFETENSORS_SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A stretch of a file that is cut on its own.

    Attributes:
        offset: Where it begins in the file.
        length: Bytes; 0 only for a tensor without elements.
        tensor: Whose bytes these are; ``None`` for a header and for plain files.
        chunk_size: Of each chunk but the last.
    """

    offset: int
    length: int
    tensor: TensorInfo | None = None
    chunk_size: int = MAX_CHUNK

    def lengths(self) -> Iterator[int]:
        """The sizes of its chunks."""
        full, rest = divmod(self.length, self.chunk_size)
        for _ in range(full):
            yield self.chunk_size
        if rest:
            yield rest


@dataclass(frozen=True, slots=True)
class Plan:
    """How one file is cut.

    Attributes:
        size: Bytes of the file.
        runs: Its bytes in order, without gaps; none for an empty file.
        warning: Why a file that is called safetensors is cut like any other, or ``None``.
    """

    size: int
    runs: tuple[PlannedRun, ...]
    warning: str | None = None


def plan_file(name: str, size: int, read: Callable[[int, int], bytes]) -> Plan:
    """Cut a safetensors file at its tensors, and any other every mebibyte.

    Args:
        name: File name; its suffix says whether it is safetensors.
        size: Bytes.
        read: ``read(length, offset)`` gives bytes of the file.

    Raises:
        OSError: Whatever ``read`` raises.
    """
    if not name.lower().endswith(SAFETENSORS_SUFFIX):
        return plain_plan(size)
    try:
        header = read_header(read, size)
        if len(header.tensors) >= MAX_RUNS:
            raise BadHeaderError(f"it has more than {MAX_RUNS - 1} tensors")
    except BadHeaderError as error:
        warning = f"{name}: not a valid safetensors header, so tensors cannot be fetched one by one: {error}"
        return Plan(size, plain_plan(size).runs, warning)
    runs = [PlannedRun(0, header.size)]
    runs += [PlannedRun(tensor.begin, tensor.end - tensor.begin, tensor) for tensor in header.tensors]
    return Plan(size, tuple(runs))


def plain_plan(size: int) -> Plan:
    """Cut a file every mebibyte."""
    return Plan(size, (PlannedRun(0, size),) if size else ())
