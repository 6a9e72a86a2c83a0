"""Patching sweeps: one request for a whole grid of patches. See Model.sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, cast

from fluoroscope._proto.v1 import pairs_pb2, patching_pb2, plan_pb2
from fluoroscope.hooks import HookTable
from fluoroscope.indices import is_int, two, whole
from fluoroscope.interventions import Intervention
from fluoroscope.metrics import Metric, as_metrics
from fluoroscope.names import hook_name, is_layered
from fluoroscope.selections import Bos, Positions, Prompts, Row, as_ints, as_prompts, from_last, positions_message, prompt_messages
from fluoroscope.suggest import unknown
from fluoroscope.sweep_sources import Source, handle_ids

AXES = {
    "site": patching_pb2.SWEEP_AXIS_SITE,
    "layer": patching_pb2.SWEEP_AXIS_LAYER,
    "position": patching_pb2.SWEEP_AXIS_POSITION,
    "head": patching_pb2.SWEEP_AXIS_HEAD,
    "unit": patching_pb2.SWEEP_AXIS_UNIT,
    "second_layer": patching_pb2.SWEEP_AXIS_SECOND_LAYER,
    "second_head": patching_pb2.SWEEP_AXIS_SECOND_HEAD,
}
# The last axis of these is the position that is attended to.
KEY_SITES = ("attn.hook_pattern", "attn.hook_attn_scores")
DIRECTIONS = {"denoise": pairs_pb2.SWEEP_DIRECTION_DENOISE, "noise": pairs_pb2.SWEEP_DIRECTION_NOISE}
KINDS = {
    "patch": patching_pb2.SWEEP_KIND_PATCH,
    "zero": patching_pb2.SWEEP_KIND_ZERO,
    "mean": patching_pb2.SWEEP_KIND_MEAN,
    "resample": patching_pb2.SWEEP_KIND_RESAMPLE,
}

PRECISIONS = {"model": patching_pb2.SWEEP_PRECISION_MODEL, "fast": patching_pb2.SWEEP_PRECISION_FAST}

# Named places on the position axis: {"subject": positions} for all pairs, or {"subject": [positions of pair 0, of pair 1, ...]}.
Groups = Mapping[str, Positions | Sequence[Positions]]



class SweepOptions(TypedDict, total=False):
    """The options of Model.sweep, which explains them, and of what takes the same grid."""

    direction: str
    kind: str
    layers: int | Sequence[int]
    heads: int | Sequence[int]
    second_layers: int | Sequence[int]
    second_heads: int | Sequence[int]
    positions: Positions
    groups: Groups | None
    source: Source | None
    source_positions: Sequence[int] | Sequence[Sequence[int]] | None
    window: int
    units: int | Sequence[int]
    unit_block: int
    references: Prompts | None
    seed: int
    window_before: int
    corrupt_with: Sequence[Intervention]
    precision: str
    recheck: int | tuple[int, int]
    bos: Bos
    parse_special_tokens: bool


DEFAULTS: SweepOptions = {
    "direction": "denoise", "kind": "patch", "layers": (), "heads": (), "second_layers": (), "second_heads": (), "positions": None, "groups": None,
    "source": None, "source_positions": None, "window": 1, "units": (), "unit_block": 1, "references": None, "seed": 0, "window_before": 0,
    "corrupt_with": (), "precision": "model", "recheck": 10, "bos": None, "parse_special_tokens": False,
}  # fmt: skip


@dataclass(frozen=True)
class SweepPlan:
    """A request and how its answer is read. For the package's own use."""

    request: patching_pb2.SweepRequest
    metrics: dict[Metric, str]  # the names the server knows them by
    single: bool


def build(
    model: str,
    clean: Prompts | None,
    corrupt: Prompts | None,
    *,
    site: str | Sequence[str] = "resid_pre",
    over: str | Sequence[str] = ("layer", "position"),
    metric: Metric | Sequence[Metric] = (),
    hooks: HookTable | None = None,
    **options: Unpack[SweepOptions],
) -> SweepPlan:
    """Turns the arguments of Model.sweep into a request. ValueError for what can be seen to be wrong here; `hooks`, the model's hook points, are for negative
    heads and units."""
    given = DEFAULTS | options
    bos, parse_special_tokens, references = given["bos"], given["parse_special_tokens"], given["references"]
    lacking = [side for side, prompts in (("clean", clean), ("corrupt", corrupt)) if prompts is None]
    if lacking and (given["source"] is None or lacking != ["corrupt" if given["direction"] == "noise" else "clean"]):
        raise ValueError(f"{' and '.join(lacking)}: only the prompt that values come from (clean for 'denoise', corrupt for 'noise') may be None, with `source`")
    pairs = pair_messages(clean, corrupt, given["source_positions"], bos, parse_special_tokens)
    single = as_prompts(cast(Prompts, corrupt if clean is None else clean))[1]
    for pair, ids in zip(pairs, handle_ids(given["source"], len(pairs), single), strict=True):
        pair.source_handles.extend(ids)
    sites = _sites(site)
    axes = [over] if isinstance(over, str) else list(over)
    if len(sites) > 1 and "site" not in axes:
        axes.insert(0, "site")
    if "source" in axes and not set(sites) <= set(KEY_SITES):
        raise ValueError(f"over: 'source' is an axis of pattern and attn_scores only; {', '.join(sites)} has 'unit'")
    globs = [f"blocks.*.{name}" for name in sites]
    heads, units = from_last(hooks, globs, as_ints(given["heads"], "heads"), as_ints(given["units"], "units"))
    second_heads, _ = from_last(hooks, globs, as_ints(given["second_heads"], "second_heads"))
    seed = whole(given["seed"], "seed", 0, 2**64 - 1)
    request = patching_pb2.SweepRequest(
        model=model,
        pairs=pairs,
        sites=sites,
        over=[choice(axis, AXES | {"source": AXES["unit"]}, "over") for axis in axes],
        direction=choice(given["direction"], DIRECTIONS, "direction"),
        kind=choice(given["kind"], KINDS, "kind"),
        layers=as_ints(given["layers"], "layers"),
        heads=heads,
        second_layers=as_ints(given["second_layers"], "second_layers"),
        second_heads=second_heads,
        positions=positions_message(given["positions"]),
        window=whole(given["window"], "window", 1),
        window_before=whole(given["window_before"], "window_before"),
        units=units,
        unit_block=whole(given["unit_block"], "unit_block", 1),
        references=[] if references is None else prompt_messages(as_prompts(references)[0], bos, parse_special_tokens),
        seed=seed,
    )
    for name, places in (given["groups"] or {}).items():
        per_pair = places if isinstance(places, Sequence) and not isinstance(places, str) and any(_is_list(place) for place in places) else [places]
        request.groups.add(name=name, positions=[positions_message(cast(Positions, place)) for place in per_pair])
    messages, names = metric_messages(metric, clean, corrupt, given["direction"])
    request.metrics.extend(messages)
    if choice(given["precision"], PRECISIONS, "precision") == patching_pb2.SWEEP_PRECISION_FAST:
        request.precision = patching_pb2.SWEEP_PRECISION_FAST
        top, random = two(given["recheck"], "recheck")
        request.recheck.top, request.recheck.random, request.recheck.seed = top, random, seed
    if given["corrupt_with"]:
        request.corrupt_interventions.extend(_corruption(given["corrupt_with"], len(pairs)))
    return SweepPlan(request, names, single)


def pair_messages(
    clean: Prompts | None,
    corrupt: Prompts | None,
    source_positions: Sequence[int] | Sequence[Sequence[int]] | None,
    bos: Bos,
    parse_special_tokens: bool,
) -> list[pairs_pb2.SweepPair]:
    """Two prompts, or two lists of them, as the protocol has them. One side may be None."""
    both = [as_prompts(prompts) for prompts in (clean, corrupt) if prompts is not None]
    (rows, single), (others, other_single) = both[0], both[-1]
    if (len(rows), single) != (len(others), other_single):
        raise ValueError(f"clean has {len(rows)} prompts and corrupt {len(others)}; give one each, or two lists of the same length")
    messages = [
        [None] * len(rows) if prompts is None else prompt_messages(as_prompts(prompts)[0], bos, parse_special_tokens) for prompts in (clean, corrupt)
    ]
    pairs = []
    for number, (a, b, mapped) in enumerate(zip(*messages, _per_pair(source_positions, len(rows), single), strict=True)):
        if mapped is not None and not len(mapped):
            raise ValueError(f"source_positions of pair {number} is empty; leave it out where positions stay as they are")
        pairs.append(pairs_pb2.SweepPair(clean=a, corrupt=b, source_positions=mapped))
    return pairs


def metric_messages(
    metric: Metric | Sequence[Metric], clean: Prompts | None, corrupt: Prompts | None, direction: str
) -> tuple[list[plan_pb2.Metric], dict[Metric, str]]:
    """Metrics as the protocol has them, and the names the server knows them by."""
    rows, others = ([] if prompts is None else as_prompts(prompts)[0] for prompts in (clean, corrupt))
    bases, sources = (rows, others) if direction == "noise" else (others, rows)
    base, source = range(2)

    def run_of(prompt: Row) -> int:
        """Which of a pair's runs a metric compares with: without a reference it is the base run, as everywhere else the prompt without edits."""
        if prompt in bases:
            return base
        if prompt in sources:
            return source
        raise ValueError("kl, js and l2 of a sweep compare with the pair's own runs: leave `reference` out (the base run), or give the clean or corrupt prompts")

    chosen = as_metrics(metric, "metric")
    messages: list[plan_pb2.Metric] = []
    names: dict[Metric, str] = {}
    for item in chosen:
        name = item.name
        while name in names.values():
            name += "'"
        names[item] = name
        for message in item.messages(bases, run_of, None):
            message.name = name  # the answers of each pair are the same metric
            messages.append(message)
    return messages, names


def _corruption(edits: Sequence[Intervention], pairs: int) -> list[plan_pb2.Intervention]:
    messages = []
    for edit in edits:
        if edit.source is not None or edit.own:
            raise ValueError(f"corrupt_with: fs.{edit.kind} takes values from another prompt, which the runs of a sweep cannot")
        rows = tuple(range(pairs)) if edit.where.rows is None else edit.where.rows
        message = edit.make(())
        message.select.CopyFrom(edit.where.message(edit.where.positions_of(0, 1), rows, None))
        messages.append(message)
    return messages


def short_site(name: str) -> str:
    """A site without its layer: "resid_pre" -> "hook_resid_pre", "z" -> "attn.hook_z"; full names stay as they are."""
    name = name.removeprefix("blocks.*.").removeprefix("blocks.{l}.")
    if (found := re.match(r"blocks\.(-?\d+)\.(.*)", name)) is not None:
        raise ValueError(f"site: {name!r} has a layer in it; leave the layer out: {found[2]!r}, layers={found[1]}")
    return name if "hook_" in name else hook_name((name, 0)).removeprefix("blocks.0.")


def _sites(site: Any) -> list[str]:
    if is_layered(site):
        raise ValueError(f"site: {site!r} has a layer in it; leave the layer out: {site[0]!r}, layers={site[1]}")
    names = [site] if isinstance(site, str) or not isinstance(site, Sequence) else list(site)
    for name in names:
        if not isinstance(name, str):
            why = f"leave the layer out: {name[0]!r}, layers={name[1]}" if is_layered(name) else "give a hook point's name without the layer, such as 'resid_pre'"
            raise ValueError(f"site: {name!r} is not a site; {why}")
    return [short_site(name) for name in names]


def choice(value: str, choices: Mapping[str, int], what: str) -> Any:  # the stubs have a type of their own for each enum
    if not isinstance(value, str) or value not in choices:
        raise ValueError(unknown(what, value, choices))
    return choices[value]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _per_pair(positions: Sequence[int] | Sequence[Sequence[int]] | None, pairs: int, single: bool) -> list[Sequence[int] | None]:
    if positions is None:
        return [None] * pairs
    if isinstance(positions, str) or is_int(positions) or not isinstance(positions, Iterable):
        raise ValueError(f"source_positions is {positions!r}; give a list of positions for each pair: model.align(source, base) makes one")
    entries = list(positions)
    if single and not any(isinstance(entry, Iterable) and not is_int(entry) for entry in entries):
        return [as_ints(positions, "source_positions")]  # type: ignore[arg-type]
    if len(entries) != pairs:
        raise ValueError(f"source_positions has {len(entries)} entries for {pairs} pairs")
    return [None if entry is None else as_ints(entry, "source_positions") for entry in entries]  # type: ignore[arg-type]
