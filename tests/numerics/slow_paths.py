"""Path patching and causal tracing the slow, obvious way: whole forwards of the reference, one cell at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .reference import Trace, Weights, trace

# What a metric says of the last position's logits.
Measure = Callable[[Tensor], float]


@dataclass(frozen=True)
class Node:
    """One part of the model: a hook name, and which of its heads (None: it has none)."""

    site: str
    heads: tuple[int, ...] | None = None


def put(value: Tensor, by: Tensor, positions: Sequence[int], heads: Sequence[int] | None, source_of: Sequence[int]) -> Tensor:
    """`value` with `by`'s entries at some positions (and heads); position p takes by[source_of[p]]."""
    out = value.clone()
    for p in positions:
        if source_of[p] < 0:
            continue
        if heads is None:
            out[p] = by[source_of[p]]
        else:
            for head in heads:
                out[p, head] = by[source_of[p], head]
    return out


def in_front(sender: Node, receiver: Node) -> bool:
    """Stages: the embedding, then each layer's heads and MLP in turn, then the logits. A sender is heard from the stage behind its own on."""

    def stage(node: Node) -> float:
        if node.site in ("hook_embed", "logits"):
            return {"hook_embed": -1.0, "logits": 1e9}[node.site]
        return int(node.site.split(".")[1]) + (0.5 if "mlp" in node.site else 0.0)

    return stage(sender) < stage(receiver)


def slow_path(
    w: Weights,
    base_ids: list[int],
    base: Trace,
    source: Trace,
    senders: Sequence[Node],
    receivers: Sequence[Node],
    measure: Measure,
    *,
    sender_positions: Sequence[int],
    receiver_positions: Sequence[int],
    source_of: Sequence[int],
    mlps: bool = False,
    norms: bool = False,
) -> float:
    """One cell; NaN where the model has no such path. `mlps`, `norms`: frozen too."""
    if not any(in_front(sender, receiver) for sender in senders for receiver in receivers):
        return float("nan")
    same = range(len(base_ids))

    def frozen(name: str, value: Tensor) -> Tensor:
        """Run 2: everything frozen that is to be frozen, then the senders' values put in."""
        if name.endswith("attn.hook_z") or (mlps and name.endswith("hook_mlp_out")) or (norms and name.endswith("hook_scale")):
            value = base.sites[name]
        for node in senders:
            # The embedding with its positions is the first block's input.
            site = "blocks.0.hook_resid_pre" if node.site == "hook_embed" else node.site
            if name == site:
                value = put(value, source.sites[name], sender_positions, node.heads, source_of)
        return value

    second = trace(w, base_ids, frozen)
    if receivers[0].site == "logits":
        return measure(second.logits[-1])

    def received(name: str, value: Tensor) -> Tensor:
        """Run 3: the receivers read what they read in run 2."""
        for node in receivers:
            if name == node.site:
                value = put(value, second.sites[name], receiver_positions, node.heads, same)
        return value

    return measure(trace(w, base_ids, received).logits[-1])


def slow_trace(w: Weights, ids: list[int], noisy_embed: Tensor, clean: Trace, site: str, layers: Sequence[int], position: int, measure: Measure) -> float:
    """One cell of a causal trace: the noisy run with the clean value at one position in some layers."""
    names = [f"blocks.{layer}.{site}" for layer in layers]

    def edit(name: str, value: Tensor) -> Tensor:
        if name == "hook_embed":
            return noisy_embed
        if name in names:
            value = value.clone()
            value[position] = clean.sites[name][position]
        return value

    return measure(trace(w, ids, edit).logits[-1])


def noisy_embedding(clean: Tensor, positions: Sequence[int], stddev: float, normal: Callable[[int, int], float]) -> Tensor:
    """[pos, d_model]; normal(position, unit) is a standard normal number."""
    out = clean.clone()
    for p in positions:
        out[p] += stddev * torch.tensor([normal(p, unit) for unit in range(clean.shape[1])], dtype=clean.dtype)
    return out
