"""Every kind of intervention the slow, obvious way: one position, one head, one vector at a time, in float64.

Shares no code with the server, nor its order of doing things. A `Kind` says what a vector becomes and how the wire asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fluoroscope._proto.v1 import plan_pb2
from torch import Tensor

from .serving import positions as positions_message
from .serving import selection, tensor


@dataclass
class Place:
    """A part of a site of one row, with every index spelled out."""

    site: str
    positions: list[int]
    heads: list[int]  # [0] where the site has no head axis
    units: list[int]


def by_position(site: str, value: Tensor) -> Tensor:
    """Any site's value as [position, head, unit]."""
    if site.endswith(("attn_scores", "pattern")):
        return value.transpose(0, 1)
    return value if value.dim() == 3 else value[:, None, :]


def like_site(site: str, value: Tensor, shape: torch.Size) -> Tensor:
    return value.transpose(0, 1) if site.endswith(("attn_scores", "pattern")) else value.reshape(shape)


# What the numbers at a position and head become: (own, index of the position among the place's, head's index, position, head) -> new.
Change = Callable[[np.ndarray, int, int, int, int], np.ndarray]


def edited(place: Place, value: Tensor, change: Change) -> Tensor:
    """The site's value after the edit. Masked scores take no part and stay masked."""
    out = by_position(place.site, value.clone()).clone()
    for i, position in enumerate(place.positions):
        for h, head in enumerate(place.heads):
            own = out[position, head, place.units].double().numpy()
            masked = np.isneginf(own)
            new = np.array(change(np.where(masked, 0.0, own), i, h, position, head), dtype=np.float64)
            out[position, head, place.units] = torch.from_numpy(np.where(masked, -np.inf, new)).to(value.dtype)
    return like_site(place.site, out, value.shape)


def part(place: Place, value: Tensor, positions: Sequence[int]) -> np.ndarray:
    """[positions, heads, units] of another row's value."""
    return by_position(place.site, value)[list(positions)][:, place.heads][:, :, place.units].double().numpy()


def philox(counter: Sequence[int], seed: int) -> list[int]:
    """Philox4x32-10, from the paper."""
    c, k = list(counter), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def normal(seed: int, row: int, place: int, position: int, head: int, unit: int) -> float:
    """The noise at one place; `place` is the site's number in the table, plus the layer from bit 8 on."""
    words = philox([unit // 4, position, place | head << 20, row], seed)
    first, second = words[unit % 4 // 2 * 2], words[unit % 4 // 2 * 2 + 1]
    radius, angle = math.sqrt(-2 * math.log((first + 1) / 2**32)), 2 * math.pi * second / 2**32
    return radius * (math.cos(angle) if unit % 2 == 0 else math.sin(angle))


def span(directions: np.ndarray) -> np.ndarray:
    """The matrix that projects onto the span of the directions' rows."""
    return np.linalg.pinv(directions) @ directions


@dataclass
class Asked:
    """One intervention for one row: the message without its selection, and what it does."""

    message: plan_pb2.Intervention
    change: Change


KINDS = ["zero", "set", "set-whole", "add", "scale", "mean", "mean-value", "interpolate", "copy", "resample", "project_out", "swap_subspace", "noise"]


def make(kind: str, place: Place, row: int, sources: dict[int, Tensor], number: int, rng: np.random.Generator) -> Asked:
    """The kind, with random parameters, at a place of `row`. `sources` are other rows' values at the site; `number` is the site's and layer's."""
    units = len(place.units)
    first, second = sorted(sources)[:2]
    at = place.positions
    own_shape = (len(place.heads), len(at), units) if place.site.endswith(("attn_scores", "pattern")) else (len(at), len(place.heads), units)
    other = part(place, sources[first], at)
    other = np.where(np.isneginf(other), 0.0, other)

    is_scale = place.site.endswith("hook_scale")

    def draw(*shape: int) -> np.ndarray:
        """Random numbers. A norm divides by its scale: numbers near 0 there would only magnify rounding errors."""
        values = rng.standard_normal(shape)
        return (1 + np.abs(values) if is_scale else values).astype(np.float32)

    def asks(change: Change, **message) -> Asked:
        return Asked(plan_pb2.Intervention(**message), change)

    if kind == "zero":
        return asks(lambda own, *_: own * 0, zero=plan_pb2.Zero())
    if kind in ("set", "mean-value"):
        value = draw(units)
        if kind == "set":
            return asks(lambda *_: value, set=plan_pb2.Set(value=tensor(value)))
        return asks(lambda *_: value, mean=plan_pb2.Mean(value=tensor(value)))
    if kind == "set-whole":
        value = draw(*own_shape)
        slow = value.swapaxes(0, 1) if place.site.endswith(("attn_scores", "pattern")) else value
        has_heads = place.site.endswith(("attn_scores", "pattern", "hook_q", "hook_k", "hook_v", "hook_rot_q", "hook_rot_k", "hook_z", "hook_result"))
        sent = value if has_heads else value[:, 0]
        return asks(lambda own, i, h, *_: slow[i, h], set=plan_pb2.Set(value=tensor(sent)))
    if kind == "add":
        value = draw(units)
        return asks(lambda own, *_: own + 0.75 * value.astype(np.float64), add=plan_pb2.Add(value=tensor(value), scale=0.75))
    if kind == "scale":
        return asks(lambda own, *_: own * -1.5, scale=plan_pb2.Scale(factor=-1.5))
    if kind == "mean":
        lines = np.concatenate([part(place, sources[source], range(by_position(place.site, sources[source]).shape[0])) for source in sources])
        seen = ~np.isneginf(lines)
        mean = np.where(seen, lines, 0).sum(0) / seen.sum(0)
        return asks(lambda own, i, h, *_: mean[h], mean=plan_pb2.Mean(of_rows=plan_pb2.Mean.OfRows(rows=sorted(sources))))
    if kind == "interpolate":
        message = plan_pb2.Interpolate(source=plan_pb2.CopyFromRow(row=first), weight=0.3)
        return asks(lambda own, i, h, *_: 0.7 * own + 0.3 * other[i, h], interpolate=message)
    if kind == "copy":
        return asks(lambda own, i, h, *_: other[i, h], copy=plan_pb2.CopyFromRow(row=first, positions=positions_message(at)))
    if kind == "resample":
        listed = [first, second]
        drawn = listed[philox([row, 0, 0, 0], 2**40 + 5)[0] % 2]
        taken = part(place, sources[drawn], at)
        return asks(lambda own, i, h, *_: taken[i, h], resample=plan_pb2.Resample(rows=listed, seed=2**40 + 5))
    if kind == "project_out":
        directions = rng.standard_normal((min(3, units), units)).astype(np.float32)
        out = np.eye(units) - span(directions.astype(np.float64))
        out[np.abs(out) < 1e-12] = 0  # all of a scale, which has one unit
        return asks(lambda own, *_: own @ out, project_out=plan_pb2.ProjectOut(directions=tensor(directions)))
    if kind == "swap_subspace":
        directions = rng.standard_normal((min(2, units), units)).astype(np.float32)
        inside = span(directions.astype(np.float64))
        message = plan_pb2.SwapSubspace(source=plan_pb2.CopyFromRow(row=first), directions=tensor(directions))
        return asks(lambda own, i, h, *_: own + (other[i, h] - own) @ inside, swap_subspace=message)
    assert kind == "noise"
    seed, stddev = 2**33 + 7, 0.05 if is_scale else 0.5

    def noisy(own, i, h, position, head):
        return own + stddev * np.array([normal(seed, row, number, position, head, unit) for unit in place.units])

    return asks(noisy, noise=plan_pb2.Noise(stddev=stddev, seed=seed))


def at_place(asked: plan_pb2.Intervention, place: Place, row: int, *, heads: bool, units: bool) -> plan_pb2.Intervention:
    """The message with its selection; heads and units only where they narrow it."""
    out = plan_pb2.Intervention()
    out.CopyFrom(asked)
    out.select.CopyFrom(selection(place.site, at=place.positions, heads=place.heads if heads else (), rows=[row]))
    if units:
        out.select.units.extend(place.units)
    return out
