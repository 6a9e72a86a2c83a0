"""What can be read and edited in a model: the server's table of hook points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from fluoroscope._proto.v1 import models_pb2


@dataclass(frozen=True)
class Hook:
    """A hook point, or one per layer.

    Attributes:
      name: "hook_embed", or with "{l}" for the layer: "blocks.{l}.hook_resid_pre".
      equation: what the tensor equals, in terms of other hook points.
      axes: the axes of one prompt's tensor; results have "batch" in front of them.
      shape: their sizes; -1 where it depends on the prompt.
      readable, editable: what may be done with it.
      has_gradient: whether `grad_of` gives a metric's gradient there.
      unavailable_because: why this model does not have it; empty when it does.
    """

    name: str
    equation: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    readable: bool
    editable: bool
    unavailable_because: str
    has_gradient: bool = False

    @classmethod
    def of(cls, site: models_pb2.Site) -> Hook:
        """From the wire's message."""
        return cls(site.name, site.equation, tuple(site.axes), tuple(site.shape), site.readable, site.editable, site.unavailable_because, site.has_gradient)

    @property
    def in_block(self) -> bool:
        """Whether each layer has one: the name then has "{l}" in it."""
        return "{l}" in self.name


class HookTable(Sequence[Hook]):
    """The hook points of a model, in the order in which a forward pass reaches them. Prints as a table.

    `names()` lists every single one; `table["blocks.5.hook_resid_pre"]` (or a name with {l}) finds one.
    """

    def __init__(self, hooks: Sequence[Hook], layers: int) -> None:
        self._hooks = list(hooks)
        self._layers = layers

    def names(self) -> list[str]:
        """Full names of all hook points that this model has and that can be read, layer by layer."""
        usable = [hook for hook in self._hooks if hook.readable and not hook.unavailable_because]
        before = [hook.name for hook in usable if not hook.in_block and not hook.name.startswith("ln_final")]
        behind = [hook.name for hook in usable if not hook.in_block and hook.name.startswith("ln_final")]
        inside = [hook.name.replace("{l}", str(layer)) for layer in range(self._layers) for hook in usable if hook.in_block]
        return before + inside + behind

    @overload
    def __getitem__(self, key: int | str) -> Hook: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Hook]: ...
    def __getitem__(self, key: int | str | slice) -> Hook | Sequence[Hook]:
        if not isinstance(key, str):
            return self._hooks[key]
        name = re.sub(r"^blocks\.\d+\.", "blocks.{l}.", key)
        for hook in self._hooks:
            if hook.name == name:
                return hook
        raise KeyError(f"no hook point {key!r}; there are {', '.join(hook.name for hook in self._hooks)}")

    def __len__(self) -> int:
        return len(self._hooks)

    def __repr__(self) -> str:
        rows = [("name", "shape", "edit", "gradient", "equals")]
        missing = []
        for hook in self._hooks:
            if hook.unavailable_because:
                missing.append(f"  {hook.name}: {hook.unavailable_because}")
                continue
            shape = ", ".join(f"{axis} {size}" if size > 1 else axis if size < 0 else "1" for axis, size in zip(hook.axes, hook.shape, strict=True))
            rows.append((hook.name, f"[{shape}]", "yes" if hook.editable else "no", "yes" if hook.has_gradient else "no", hook.equation))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows]
        lines.insert(1, "  ".join("─" * width for width in [*widths, 6]))
        lines.append(f"{{l}} is the layer, 0 to {self._layers - 1}. Results have a batch axis in front.")
        if missing:
            lines += ["Not in this model:", *missing]
        return "\n".join(lines)
