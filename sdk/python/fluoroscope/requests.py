"""Builds Forward requests: what the user asked for, plus the rows that interventions and metrics read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from fluoroscope._proto.v1 import inference_pb2, plan_pb2
from fluoroscope.arrays import plain
from fluoroscope.gradients import gradient_captures, with_gradients
from fluoroscope.hooks import HookTable
from fluoroscope.indices import whole
from fluoroscope.interventions import Intervention
from fluoroscope.logits import LogitsChoice, logits_message
from fluoroscope.metrics import Metric, as_metrics
from fluoroscope.names import HookKey
from fluoroscope.order import refuse_twice
from fluoroscope.selections import (
    Bos,
    Positions,
    Prompts,
    Row,
    Start,
    Token,
    as_prompts,
    per_prompt_positions,
    positions_message,
    prompt_messages,
    tensor_message,
    token_refs,
)


@dataclass(frozen=True)
class TopK:
    """Reduction: the k largest entries of the last axis. The cache then holds `TopKValues(values, indices)` instead of arrays."""

    k: int


@dataclass(frozen=True, eq=False)
class Dot:
    """Reduction: products with given directions. `directions` is [n, size of the last axis], finite; the last axis of the result has size n."""

    directions: np.ndarray


@dataclass(frozen=True, eq=False)
class Lens:
    """Reduction: the logit lens. Each vector of the residual stream goes through the final norm (statistics of its own, the norm's weights) and the
    unembedding, on the server; the cache then holds `LensValues(tokens, logits, logprobs)`. Either the `top_k` best tokens, or the given `tokens`.
    """

    top_k: int = 0
    tokens: Sequence[Token] = ()


@dataclass(frozen=True, eq=False)
class Writes:
    """Reduction of mlp.hook_post: what each neuron writes along directions [n, d_model] of the residual stream: [..., n, d_mlp], or with `top_k` the largest by
    magnitude, as TopKValues [..., n, k]."""

    directions: np.ndarray
    top_k: int = 0


# "last": only each prompt's last position; TopK(k); Dot(directions); Lens(...); Writes(...).
Reduction = str | TopK | Dot | Lens | Writes | None


@dataclass
class CaptureChoice:
    """What to keep of a run: see Model.run_with_cache for the fields' meaning."""

    sites: Sequence[str]
    positions: Positions = None
    layers: Sequence[int] = ()
    heads: Sequence[int] = ()
    reduction: Reduction = None
    rows: Sequence[int] | None = None  # None: all prompts
    grad_of: Metric | None = None  # also the gradients of this metric, at the same places


@dataclass
class Plan:
    """A request and how to read its reply."""

    request: inference_pb2.ForwardRequest
    rows: int  # the user's prompts are rows 0 .. rows-1; the rest are sources
    single: bool  # the user gave one prompt, not a list
    metrics: dict[Metric, list[str]] = field(default_factory=dict)  # names in the request of each metric: one, or one per prompt
    patches: list[tuple[int, int, Positions, bool]] = field(default_factory=list)  # target row, source row, positions, at the same positions
    edited: set[int] = field(default_factory=set)  # prompts that other interventions than patches change


def build(
    model: str,
    prompts: Prompts,
    *,
    interventions: Sequence[Intervention] = (),
    metrics: Sequence[Metric] = (),
    capture: CaptureChoice | Sequence[CaptureChoice] | None = None,
    logits: LogitsChoice = None,
    bos: Bos = None,
    parse_special_tokens: bool = False,
    isolated: bool = False,
    layers: int | None = None,
    hooks: HookTable | None = None,
) -> Plan:
    """The request for a run. `layers` is how many the model has, for negative ones in hook names, and `hooks` are its hook points, for negative heads and
    units."""
    rows, single = as_prompts(prompts)
    request = inference_pb2.ForwardRequest(model=model, isolated=isolated)
    if (wanted := logits_message(logits, len(rows))) is not None:
        request.logits.CopyFrom(wanted)
    plan = Plan(request, len(rows), single)
    choices = [] if capture is None else [capture] if isinstance(capture, CaptureChoice) else list(capture)
    request.captures.extend(_capture(choice, len(rows)) for choice in choices)
    sources = _Sources(rows)
    for intervention in [interventions] if isinstance(interventions, Intervention) else interventions:
        _add_intervention(plan, intervention, sources, layers, hooks)
    _add_metrics(plan, with_gradients(as_metrics(metrics, "metrics"), choices), sources, layers, hooks)
    for choice, made in zip(choices, list(request.captures), strict=True):
        if choice.grad_of is not None:
            named = plan.metrics[choice.grad_of]
            request.captures.extend(gradient_captures(made, [message for message in request.metrics if message.name in named]))
    request.prompts.extend(prompt_messages(sources.rows, bos, parse_special_tokens, layers))
    return plan


def starts(at: HookKey, value: ArrayLike | Sequence[ArrayLike], tokens: Prompts) -> tuple[list[Start], bool]:
    """(one start per prompt, whether it was a single prompt)."""
    given: Any = [plain(item) for item in value] if isinstance(value, list | tuple) else plain(value)
    ragged = isinstance(given, list) and len({np.shape(item) for item in given}) > 1
    values = [np.asarray(item) for item in given] if ragged else np.asarray(given)
    single = not ragged and np.ndim(cast(np.ndarray, values)) == 2
    arrays = [values] if single else list(values)
    if any(np.ndim(array) != 2 for array in arrays) or not arrays:
        raise ValueError("value is [positions, d_model], [batch, positions, d_model] or a list of [positions, d_model]")
    ids: list[Any] = [()] * len(arrays) if len(cast(Any, tokens)) == 0 else as_prompts(tokens)[0]
    if len(ids) != len(arrays):
        raise ValueError(f"tokens has {len(ids)} lists for {len(arrays)} prompts")
    return [Start(at, np.asarray(array), of) for array, of in zip(arrays, ids, strict=True)], single


class _Sources:
    """The rows of a request: the user's prompts, and behind them the prompts that run without interventions for others to read from."""

    def __init__(self, prompts: list[Row]) -> None:
        self.prompts = prompts
        self.rows = list(prompts)
        self._known: dict[str | tuple[int, ...] | Start, int] = {}

    def row_of(self, prompt: Row) -> int:
        """The row of a source; the same prompt has one row however often it is asked for."""
        key = tuple(prompt) if isinstance(prompt, list) else prompt
        if key not in self._known:
            self._known[key] = len(self.rows)
            self.rows.append(prompt)
        return self._known[key]


def _capture(choice: CaptureChoice, rows: int) -> plan_pb2.Capture:
    select = plan_pb2.Selection(
        sites=choice.sites, layers=choice.layers, positions=positions_message(choice.positions), heads=choice.heads,
        rows=range(rows) if choice.rows is None else choice.rows,
    )
    refuse_twice(select.positions, select.heads)
    return plan_pb2.Capture(select=select, reduction=_reduction(choice.reduction))


def _reduction(reduction: Reduction) -> plan_pb2.Reduction | None:
    if reduction is None:
        return None
    if isinstance(reduction, TopK):
        return plan_pb2.Reduction(top_k=plan_pb2.Reduction.TopK(k=whole(reduction.k, "k of fs.TopK", 1)))
    if isinstance(reduction, Dot):
        return plan_pb2.Reduction(dot=plan_pb2.Reduction.Dot(directions=tensor_message(reduction.directions, "directions")))
    if isinstance(reduction, Lens):
        if bool(reduction.top_k) == bool(len(reduction.tokens)):
            raise ValueError("fs.Lens takes either top_k or tokens")
        return plan_pb2.Reduction(lens=plan_pb2.Reduction.Lens(top_k=reduction.top_k, tokens=token_refs(reduction.tokens)))
    if isinstance(reduction, Writes):
        return plan_pb2.Reduction(writes=plan_pb2.Reduction.Writes(directions=tensor_message(reduction.directions, "directions"), top_k=reduction.top_k))
    if reduction == "last":
        return plan_pb2.Reduction(last=True)
    raise ValueError(f"reduction is {reduction!r}; 'last', fs.TopK(k), fs.Dot(directions), fs.Lens(...), fs.Writes(...) and None are allowed")


def _add_intervention(plan: Plan, edit: Intervention, sources: _Sources, layers: int | None, hooks: HookTable | None) -> None:
    """Adds the messages of one intervention, and the prompts it reads from to the rows."""
    if not isinstance(edit, Intervention):
        raise ValueError(f"{edit!r} is not an intervention: use fs.patch(site, source=...), fs.zero(site) or another of fs's functions")
    where = edit.where
    targets = list(range(plan.rows)) if where.rows is None else list(where.rows)
    if any(not 0 <= target < plan.rows for target in targets):
        raise ValueError(f"rows={targets} of {edit!r}: there are {plan.rows} prompts, 0 to {plan.rows - 1}")
    given, single = ([], True) if edit.source is None else as_prompts(edit.source)
    per_target = edit.own or not (single or edit.pooled)
    if per_target and not edit.own and len(given) != plan.rows:
        raise ValueError(f"{edit!r} has {len(given)} sources for {plan.rows} prompts: give one, or one per prompt")
    # One message says it for all targets, unless they have sources or positions of their own.
    together = not per_target and per_prompt_positions(where.positions, plan.rows) is None
    for group in [targets] if together else [[target] for target in targets]:
        positions = where.positions_of(group[0], plan.rows)
        if isinstance(positions, list | tuple | np.ndarray) and len(positions) == 0 and not together:
            continue  # this prompt has no such place (a pair that does not differ anywhere)
        chosen = [sources.prompts[group[0]]] if edit.own else [given[group[0]]] if per_target else given
        rows = [sources.row_of(prompt) for prompt in chosen]
        message = edit.make(rows)
        message.select.CopyFrom(where.message(positions, group, layers, hooks))
        plan.request.interventions.append(message)
        if edit.kind == "patch" and rows:
            plan.patches += [(target, rows[0], positions, edit.source_positions is None) for target in group]
        elif edit.kind != "freeze":
            plan.edited.update(group)


def _add_metrics(plan: Plan, metrics: Sequence[Metric], sources: _Sources, layers: int | None, hooks: HookTable | None) -> None:
    names: set[str] = set()
    for metric in metrics:
        if metric.name in names:
            raise ValueError(f"two metrics are called {metric.name!r}: give one of them another `name`")
        names.add(metric.name)
        messages = metric.messages(sources.prompts, sources.row_of, layers, hooks)
        plan.request.metrics.extend(messages)
        plan.metrics[metric] = [message.name for message in messages]
