"""Captured activations, with TransformerLens's names, shapes and batch axis."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from fluoroscope import hints
from fluoroscope._proto.v1 import inference_pb2, tensor_pb2
from fluoroscope.names import HookKey, hook_name
from fluoroscope.ragged import Ragged, shape_text, stack
from fluoroscope.residual_stacks import ResidualStacks
from fluoroscope.suggest import meant

if TYPE_CHECKING:
    from fluoroscope.model import Model
    from fluoroscope.results import Provenance


class TopKValues(NamedTuple):
    """What the reduction fs.TopK leaves of a tensor: the k largest entries of its last axis, largest first, and where they were."""

    values: np.ndarray | Ragged
    indices: np.ndarray | Ragged


class LensValues(NamedTuple):
    """What the reduction fs.Lens makes of a vector of the residual stream; the last axis has one entry per token."""

    tokens: np.ndarray | Ragged | None  # ids, best first; None where tokens were given
    logits: np.ndarray | Ragged
    logprobs: np.ndarray | Ragged  # natural logarithms, over the whole vocabulary


Activation = np.ndarray | Ragged | TopKValues | LensValues


@dataclass(frozen=True)
class Entry:
    """One hook point's values, and the tensors' headers by row, which say which part of it they are.

    `value` is [batch, ...], or [...] when the batch axis was removed; a Ragged for prompts of unequal length.
    """

    value: Activation
    headers: tuple[tensor_pb2.TensorHeader, ...]


class ActivationCache(ResidualStacks, Mapping[str, Activation]):
    """Activations by hook name: `cache["blocks.5.hook_resid_pre"]`, or in short `cache["resid_pre", 5]`, `cache["pattern", -1]`.

    A value is a numpy array [batch, ...] with the axes that `Model.hooks()` lists, as in TransformerLens; without the batch axis after
    `remove_batch_dim=True`; a `Ragged` where prompts have unequal lengths.

    Attributes:
      provenance: what the numbers came from.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        rows: Sequence[inference_pb2.RowInfo],
        provenance: Provenance,
        layers: int,
        single: bool = False,
        model: Model | None = None,
    ) -> None:
        """For the package's own use. `rows` are the prompts as they ran; `single` says that the batch axis was removed; `model` gives weights to stacks."""
        self._model = model
        self._entries = dict(entries)
        self._rows = rows
        self._layers = layers
        self._single = single
        self.provenance = provenance

    # Made when somebody looks: for many long prompts they take longer than the rest of the client's work.
    @cached_property
    def tokens(self) -> np.ndarray | Ragged:
        """Token ids that really ran: int64 [batch, pos] (or [pos], or a Ragged)."""
        ids = stack([np.array(row.token_ids, dtype=np.int64) for row in self._rows])
        return ids[0] if self._single else ids

    @cached_property
    def str_tokens(self) -> list[str] | list[list[str]]:
        """The same as text, each token decoded on its own: one list per prompt (one list when the batch axis was removed)."""
        texts = [list(row.tokens) for row in self._rows]
        return texts[0] if self._single else texts

    @property
    def bos_added(self) -> tuple[bool, ...]:
        """Per prompt, whether the server put a BOS in front."""
        return tuple(row.bos_added for row in self._rows)

    def __getitem__(self, key: HookKey) -> Activation:
        return self._entry(key).value

    def positions(self, key: HookKey) -> tuple[tuple[int, ...], ...]:
        """Per prompt, the absolute positions along the position axis (for scores and patterns: the query axis) of a value."""
        return tuple(tuple(header.positions) for header in self._entry(key).headers)

    def heads(self, key: HookKey) -> tuple[int, ...]:
        """The heads along the head axis of a value when the capture chose some; empty when it has all of them (or no such axis)."""
        return tuple(self._entry(key).headers[0].heads)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(part.nbytes for entry in self._entries.values() for part in _parts(entry.value))

    def _entry(self, key: HookKey) -> Entry:
        name = hook_name(key, self._layers)
        if name not in self._entries:
            there = ", ".join(group for group, _ in self._groups()) or "nothing"
            raise KeyError(f"{name} was not captured; this cache has {there}{meant(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, key: object) -> bool:
        try:
            return hook_name(key, self._layers) in self._entries  # type: ignore[arg-type]
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    # In a pickle messages are bytes, and the model, which belongs to a connection, is left behind: stacks that need weights say so.

    def __getstate__(self) -> dict[str, Any]:
        entries = [(name, entry.value, [header.SerializeToString() for header in entry.headers]) for name, entry in self._entries.items()]
        return {"entries": entries, "rows": [row.SerializeToString() for row in self._rows], "layers": self._layers, "single": self._single,
                "provenance": self.provenance}  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        entries = {name: Entry(value, tuple(map(tensor_pb2.TensorHeader.FromString, headers))) for name, value, headers in state["entries"]}
        rows = [inference_pb2.RowInfo.FromString(row) for row in state["rows"]]
        self.__init__(entries, rows, state["provenance"], state["layers"], state["single"])  # type: ignore[misc]

    def __copy__(self) -> ActivationCache:
        """The same model and the same arrays."""
        return ActivationCache(self._entries, self._rows, self.provenance, self._layers, self._single, self._model)

    def __deepcopy__(self, memo: dict[int, Any]) -> ActivationCache:
        """The same model, and arrays of its own."""
        entries = {name: Entry(copy.deepcopy(entry.value, memo), entry.headers) for name, entry in self._entries.items()}
        return ActivationCache(entries, self._rows, self.provenance, self._layers, self._single, self._model)

    def _groups(self) -> list[tuple[str, list[str]]]:
        """("blocks.{0..29}.hook_resid_pre", names): hook points that differ in the layer only, together."""
        return by_layers({name: _text(entry.value) for name, entry in self._entries.items()})

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise hints.no_attribute(self, name, hints.CACHE)

    def __repr__(self) -> str:
        from fluoroscope.results import bytes_text, counted

        groups = self._groups()
        width = max((len(group) for group, _ in groups), default=0)
        lines = [f"  {group:<{width}}  {_text(self._entries[names[0]].value)}" for group, names in groups]
        return "\n".join([f"ActivationCache of {self.provenance.model}: {counted(len(self), 'tensor')}, {bytes_text(self.nbytes)}", *lines])


def by_layers(texts: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """("blocks.{0..29}.hook_resid_pre", names): hook points that differ in the layer only and have the same text, together."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name, text in texts.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
        groups.setdefault((match[2] if match else name, text), []).append(int(match[1]) if match else -1)
    listed = []
    for (name, _), layers in groups.items():
        if layers == [-1]:
            listed.append((name, [name]))
            continue
        layers.sort()
        inner = str(layers[0]) if len(layers) == 1 else f"{{{_ranges(layers)}}}"
        listed.append((f"blocks.{inner}.{name}", [f"blocks.{layer}.{name}" for layer in layers]))
    return listed


def _parts(value: Activation) -> tuple[np.ndarray | Ragged, ...]:
    return tuple(part for part in value if part is not None) if isinstance(value, TopKValues | LensValues) else (value,)


def _text(value: Activation) -> str:
    if isinstance(value, TopKValues):
        return f"top-k {_text(value.values)}"
    if isinstance(value, LensValues):
        return f"lens {_text(value.logprobs)}"
    if isinstance(value, Ragged):
        return f"{value.dtype} Ragged, {len(value)} rows [{shape_text(list(value))}]"
    return f"{value.dtype} {list(value.shape)}"


def _ranges(numbers: list[int]) -> str:
    """0..3,5 for [0, 1, 2, 3, 5]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
