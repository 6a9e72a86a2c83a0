"""Puts the tensors of a reply, which come one row at a time, together into batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fluoroscope._proto.v1 import tensor_pb2
from fluoroscope.cache import Activation, Entry, LensValues, TopKValues
from fluoroscope.errors import DataLossError
from fluoroscope.gradients import entry_name
from fluoroscope.memory import POOL
from fluoroscope.ragged import Ragged
from fluoroscope.wire import widen_bf16

# What to make of bf16, which numpy lacks: widen it (exactly) to float32, or keep it as an ml_dtypes.bfloat16 array.
Bfloat16 = Literal["float32", "ml_dtypes"]


@dataclass
class _Slot:
    """The tensors of one name, by row. `arrays[i]` is `batch[i]` where its shape agrees with the first one's."""

    batch: np.ndarray
    headers: dict[int, tensor_pb2.TensorHeader] = field(default_factory=dict)
    arrays: dict[int, np.ndarray] = field(default_factory=dict)


class Assembler:
    """Allocates the tensors of one reply so that rows of equal shape land side by side in one [batch, ...] array, without a copy at the end.

    `allocate` is given to wire.ReplyReader; the other methods read the result once the reply is complete. Not thread-safe; one per call.
    """

    def __init__(self, rows: int, bfloat16: Bfloat16 = "float32") -> None:
        if bfloat16 not in ("float32", "ml_dtypes"):
            raise ValueError(f"bfloat16 is {bfloat16!r}; 'float32' and 'ml_dtypes' are allowed")
        self._rows = rows
        self._bfloat16 = bfloat16
        self._slots: dict[tuple[str, str], _Slot] = {}

    def allocate(self, header: tensor_pb2.TensorHeader, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        key, row = (entry_name(header), header.part), header.row
        if key not in self._slots:
            # Memory that is never written costs nothing, so this is cheap even if it turns out that the shapes differ.
            self._slots[key] = _Slot(POOL.empty((self._rows, *shape), dtype))
        slot = self._slots[key]
        if row >= self._rows or row in slot.arrays:
            raise DataLossError(f"tensor {header.name!r} came {'twice' if row in slot.arrays else 'unasked'} for row {row} of {self._rows}")
        fits = slot.batch.shape[1:] == shape and slot.batch.dtype == dtype
        slot.headers[row] = header
        slot.arrays[row] = slot.batch[row] if fits else np.empty(shape, dtype)
        return slot.arrays[row]

    def tensors(self) -> list[tuple[tensor_pb2.TensorHeader, np.ndarray]]:
        """Every tensor with its header, in which positions and heads may be put into another order (fluoroscope.order)."""
        return [(slot.headers[row], slot.arrays[row]) for slot in self._slots.values() for row in slot.headers]

    def names(self) -> list[str]:
        """Names in the order of arrival, each once."""
        return list(dict.fromkeys(name for name, _ in self._slots))

    def value(self, name: str, single: bool = False) -> Activation:
        """All rows of a name. `single` removes the batch axis (there must be one row)."""
        if (name, "values") in self._slots:
            return TopKValues(self._joined(name, "values", single), self._joined(name, "indices", single))
        if (name, "logprobs") in self._slots:
            tokens = self._joined(name, "tokens", single) if (name, "tokens") in self._slots else None
            return LensValues(tokens, self._joined(name, "logits", single), self._joined(name, "logprobs", single))
        return self._joined(name, "", single)

    def entry(self, name: str, single: bool = False) -> Entry:
        """All rows of a name, with which positions and heads they are."""
        slot = next(self._slots[name, part] for part in ("", "values", "logprobs") if (name, part) in self._slots)
        return Entry(self.value(name, single), tuple(slot.headers[row] for row in sorted(slot.headers)))

    def _joined(self, name: str, part: str, single: bool) -> np.ndarray | Ragged:
        slot = self._slots[name, part]
        arrays = [slot.arrays[row] for row in sorted(slot.arrays)]
        is_bf16 = next(iter(slot.headers.values())).dtype == tensor_pb2.DTYPE_BF16
        if len({array.shape for array in arrays}) > 1:
            # Copies, so that no row keeps the whole batch's memory alive.
            return Ragged([self._decoded(array.copy(), is_bf16) for array in arrays])
        decoded = self._decoded(slot.batch if len(arrays) == self._rows else np.stack(arrays), is_bf16)
        return decoded[0] if single else decoded

    def _decoded(self, array: np.ndarray, is_bf16: bool) -> np.ndarray:
        return decode_bfloat16(array, self._bfloat16) if is_bf16 else array


def decode_bfloat16(bits: np.ndarray, bfloat16: Bfloat16) -> np.ndarray:
    """What the caller wants of bf16 bit patterns (uint16)."""
    if bfloat16 == "float32":
        return widen_bf16(bits)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("bfloat16='ml_dtypes' needs that package: pip install 'fluoroscope[bfloat16]'") from error
    return bits.view(ml_dtypes.bfloat16)
