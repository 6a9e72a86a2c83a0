"""Direct logit attribution, computed on the server: what each part of the model writes towards an answer. See Model.logit_attrs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fluoroscope import options as keywords
from fluoroscope import metrics as make_metric
from fluoroscope.cache import TopKValues
from fluoroscope.indices import is_int, refuse_mask
from fluoroscope.requests import CaptureChoice, Dot, Writes
from fluoroscope.results import Provenance, RunResult
from fluoroscope.selections import Bos, Prompts, Token, as_prompts
from fluoroscope.suggest import unknown

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

    from fluoroscope.model import Model

CONVENTION = (
    "direct logit attribution: each part . (W_U[answer] - W_U[foil]) * w / scale, where w and scale are the final norm's and the scale is that of the "
    "whole residual (of LayerNorm models the part's mean is taken off); what does not depend on the prompt is 'bias'. All parts sum to the logit difference"
)
PARTS = ("component", "head", "neuron")


@dataclass(frozen=True, repr=False)
class LogitAttribution:
    """What each part adds to the answer's logit minus the foil's (or to the logit itself) at one position.

    Attributes:
      labels: "embed", "pos_embed", "0_attn_out", "0_mlp_out", ..., "L0H0", "L0N17", "bias", "remainder".
      per_prompt: float64 [prompts, parts]; their sum is `total`.
      total: what the model itself says, one number per prompt.
      by: "component", "head" or "neuron".
      convention: how to read the numbers.
    """

    labels: tuple[str, ...]
    per_prompt: np.ndarray
    total: np.ndarray
    by: str
    layers: int
    provenance: Provenance = field(repr=False)
    convention: str = CONVENTION

    @property
    def values(self) -> np.ndarray:
        """The mean over prompts, [parts]."""
        return cast(np.ndarray, self.per_prompt.mean(0))

    def __getitem__(self, label: str) -> float:
        """The value of one part, the mean over prompts."""
        if label not in self.labels:
            raise KeyError(f"{label!r} is not a part; there are {', '.join(self.labels[:4])}, ..., {self.labels[-1]}")
        return float(self.values[self.labels.index(label)])

    @property
    def heads(self) -> np.ndarray:
        """[layer, head], of an attribution by heads."""
        if self.by != "head":
            raise ValueError(f"this attribution is by {self.by}; by='head' has heads")
        found = [i for i, label in enumerate(self.labels) if label.startswith("L")]
        return cast(np.ndarray, self.values[found].reshape(self.layers, -1))

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """The k parts with the largest magnitude, as (label, value)."""
        order = np.argsort(-np.abs(self.values), kind="stable")[:k]
        return [(self.labels[i], float(self.values[i])) for i in order]

    def to_pandas(self) -> pandas.DataFrame:
        """One line per part. Needs pandas."""
        import pandas as pd

        return pd.DataFrame({"part": self.labels, "value": self.values})

    def plot(self, *, k: int = 40, **layout: Any) -> plotly.graph_objects.Figure:
        """Heads: a heat map of layers by heads. Components: bars in the order of the forward pass. Neurons: the k largest as bars. Needs plotly."""
        import plotly.graph_objects as go

        title = f"direct logit attribution by {self.by}: {self.total.mean():+.3f} in all"
        figure = go.Figure()
        if self.by == "head":
            grid = self.heads
            reach = float(np.abs(grid).max() or 1)
            figure.add_heatmap(z=grid, x=[str(i) for i in range(grid.shape[1])], y=[str(i) for i in range(grid.shape[0])], zmin=-reach, zmax=reach,
                               colorscale="RdBu", xgap=1, ygap=1, colorbar={"title": {"text": "adds"}, "thickness": 14},
                               hovertemplate="layer <b>%{y}</b>, head <b>%{x}</b><br>%{z:.3f}<extra></extra>")  # fmt: skip
            figure.update_xaxes(title="head", type="category", showgrid=False).update_yaxes(title="layer", type="category", showgrid=False)
            figure.update_layout(width=260 + 34 * max(grid.shape[1], 12), height=220 + 20 * max(grid.shape[0], 12))
        else:
            shown = self.top(k) if self.by == "neuron" else list(zip(self.labels, self.values.tolist(), strict=True))
            figure.add_bar(x=[label for label, _ in shown], y=[value for _, value in shown],
                           marker_color=["#2166ac" if value >= 0 else "#b2182b" for _, value in shown])  # fmt: skip
            figure.update_xaxes(type="category", tickangle=-60).update_yaxes(title="adds")
            figure.update_layout(width=min(1600, 200 + 18 * max(len(shown), 20)), height=460)
        figure.update_layout(template="plotly_white", font={"size": 13}, margin={"l": 70, "r": 20, "t": 70, "b": 90}, title={"text": title, "x": 0.02})
        return figure.update_layout(**layout)

    def __repr__(self) -> str:
        prompts = f", mean of {len(self.total)} prompts" if len(self.total) > 1 else ""
        lines = [f"LogitAttribution of {self.provenance.model} by {self.by}{prompts}: {self.total.mean():+.3f}, parts sum to {self.values.sum():+.3f}"]
        lines += [f"  {value:+8.3f}  {label}" for label, value in self.top(8)]
        return "\n".join(lines)


@keywords.strict
def logit_attrs(
    model: Model,
    prompts: Prompts,
    answer: Token | Sequence[Token],
    foil: Token | Sequence[Token] | None = None,
    *,
    by: str = "component",
    position: int = -1,
    top_k: int | None = None,
    bos: Bos = None,
    parse_special_tokens: bool = False,
    timeout: float | None = None,
) -> LogitAttribution:
    """What every part of the model adds to the logit of `answer` minus that of `foil`: one forward pass, and one number per part on the wire.

    Args:
      prompts: one prompt or several.
      answer, foil: one token each, or one per prompt. Without a foil: the answer's logit.
      by: "component" (embedding, every attn_out and mlp_out), "head" (every head; MLPs and embedding stay as they are), "neuron" (entries of mlp.hook_post).
      position: where the logits are read.
      top_k: of neurons: only the largest k by magnitude of each layer are sent, and the k largest of all shown, with the rest as "remainder"; for one prompt.
        Default: 20 for one prompt, all for several.

    Raises:
      ValueError: an answer is not one token.
      Otherwise as Model.run_with_cache.
    """
    if by not in PARTS:
        raise ValueError(unknown("by", by, PARTS))
    rows, _ = as_prompts(prompts)
    answers, foils = _tokens(model, answer, len(rows), "answer"), None if foil is None else _tokens(model, foil, len(rows), "foil")
    if top_k is not None and (by != "neuron" or top_k < 1 or len(rows) > 1):
        raise ValueError("top_k is for the neurons of one prompt, and at least 1")
    kept = (20 if top_k is None else top_k) if by == "neuron" and len(rows) == 1 else 0
    kept = min(kept, model.info.d_mlp)

    directions, bias = _directions(model, answers, foils)
    captures = [CaptureChoice(["ln_final.hook_scale"], position)]
    groups: dict[tuple[int, int | None], list[int]] = {}
    for row, key in enumerate(zip(answers, foils or itertools.repeat(None, len(rows)), strict=True)):
        groups.setdefault(key, []).append(row)
    embeds = ["hook_embed", *(["hook_pos_embed"] if "pos_embed.W_pos" in model.weights else [])]
    for group in groups.values():
        direction = directions[group[0]][None]
        captures.append(CaptureChoice([*embeds, "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out"], position, (), (), Dot(direction), group))
        if by == "head":
            captures.append(CaptureChoice(["blocks.*.attn.hook_result"], position, (), (), Dot(direction), group))
        if by == "neuron":
            captures.append(CaptureChoice(["blocks.*.mlp.hook_post"], position, (), (), Writes(direction, kept), group))
    metric = (make_metric.logit_diff(answers, foils, per_prompt=True, positions=position) if foils is not None
              else make_metric.logits(answers, per_prompt=True, positions=position))  # fmt: skip
    plan = model._build(rows, capture=captures, metrics=[metric], logits=None, bos=bos, parse_special_tokens=parse_special_tokens)
    result = model._run(plan, "float32", False, timeout)
    labels, values = _PARTS_OF[by](model, _Read(model, result), bias)
    return LogitAttribution(tuple(labels), values, np.asarray(result.metrics[metric], np.float64).reshape(len(rows)), by, model.info.layers, result.provenance)


class _Read:
    """The captured products, divided by the final norm's scale."""

    def __init__(self, model: Model, result: RunResult) -> None:
        self._cache = result.cache
        self.scale = np.asarray(result.cache["ln_final.hook_scale"], np.float64)[:, 0, 0]
        self.embeds = [name for name in ("hook_embed", "hook_pos_embed") if name in result.cache]
        self.layers = range(model.info.layers)

    def __call__(self, key: Any) -> np.ndarray:
        """[prompts]."""
        return np.asarray(self._cache[key], np.float64)[:, 0, 0] / self.scale

    def heads(self, layer: int) -> np.ndarray:
        """[prompts, heads]."""
        return np.asarray(self._cache["result", layer], np.float64)[:, 0, :, 0] / self.scale[:, None]

    def neurons(self, layer: int) -> tuple[np.ndarray, np.ndarray | None]:
        """[prompts, neurons], and which they are when the server chose."""
        value = self._cache["post", layer]
        numbers, indices = value if isinstance(value, TopKValues) else (value, None)
        return np.asarray(numbers, np.float64)[:, 0, 0] / self.scale[:, None], None if indices is None else np.asarray(indices)[0, 0, 0]


def _components(model: Model, read: _Read, bias: np.ndarray) -> tuple[list[str], np.ndarray]:
    labels = [name.removeprefix("hook_") for name in read.embeds]
    values = [read(name) for name in read.embeds]
    for layer in read.layers:
        for part in ("attn_out", "mlp_out"):
            labels.append(f"{layer}_{part}")
            values.append(read((part, layer)))
    return [*labels, "bias"], np.stack([*values, bias], 1)


def _heads(model: Model, read: _Read, bias: np.ndarray) -> tuple[list[str], np.ndarray]:
    labels, values = [], []
    rest = bias.copy()  # with every b_O
    for layer in read.layers:
        heads = read.heads(layer)
        labels += [f"L{layer}H{head}" for head in range(heads.shape[1])]
        values += list(heads.T)
        rest += read(("attn_out", layer)) - heads.sum(1)
    for name in read.embeds:
        labels.append(name.removeprefix("hook_"))
        values.append(read(name))
    labels += [f"{layer}_mlp_out" for layer in read.layers]
    values += [read(("mlp_out", layer)) for layer in read.layers]
    return [*labels, "bias"], np.stack([*values, rest], 1)


def _neurons(model: Model, read: _Read, bias: np.ndarray) -> tuple[list[str], np.ndarray]:
    labels: list[str] = []
    values: list[np.ndarray] = []
    chosen = False
    for layer in read.layers:
        neurons, indices = read.neurons(layer)
        chosen = indices is not None
        labels += [f"L{layer}N{neuron}" for neuron in (range(neurons.shape[1]) if indices is None else indices)]
        values.append(neurons)
    all_values = np.concatenate(values, 1)
    if chosen:  # the largest of all layers; each layer sent as many
        order = np.argsort(-np.abs(all_values[0]), kind="stable")[: values[0].shape[1]]
        labels, all_values = [labels[i] for i in order], all_values[:, order]
    whole = bias + sum(read(name) for name in read.embeds) + sum(read((part, layer)) for layer in read.layers for part in ("attn_out", "mlp_out"))
    return [*labels, "remainder"], np.concatenate([all_values, (whole - all_values.sum(1))[:, None]], 1)


_PARTS_OF = {"component": _components, "head": _heads, "neuron": _neurons}


def _directions(model: Model, answers: list[int], foils: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """([prompts, d_model] that a part is multiplied with, [prompts] that does not depend on it)."""
    weights = model.weights
    known = sorted({*answers, *(foils or [])})
    place = {token: i for i, token in enumerate(known)}
    columns = np.asarray(weights["unembed.W_U", :, known], np.float64).T  # [known, d_model]

    def difference(of: np.ndarray) -> np.ndarray:
        right = of[[place[token] for token in answers]]
        return right if foils is None else right - of[[place[token] for token in foils]]

    unembed = difference(columns)
    directions = unembed * weights["ln_final.w"]
    bias = np.zeros(len(answers))
    if "ln_final.b" in weights:
        # (x - mean(x)) . v = x . (v - mean(v))
        directions = directions - directions.mean(-1, keepdims=True)
        bias = unembed @ np.asarray(weights["ln_final.b"], np.float64)
    if "unembed.b_U" in weights:
        bias = bias + difference(np.asarray(weights["unembed.b_U", known], np.float64))
    return directions, bias


def _tokens(model: Model, tokens: Token | Sequence[Token], count: int, what: str) -> list[int]:
    refuse_mask(tokens, what)
    single = isinstance(tokens, str) or is_int(tokens) or not isinstance(tokens, Iterable)
    entries: list[Any] = [tokens] * count if single else list(cast("Iterable[Any]", tokens))
    if len(entries) != count:
        raise ValueError(f"{what} has {len(entries)} tokens for {count} prompts: give one, or one per prompt")
    return [model.to_single_token(token) if isinstance(token, str) else int(token) for token in entries]
