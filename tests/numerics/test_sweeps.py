"""Sweeps are exact: every cell of a grid equals the slow way, one whole forward of the reference with that one place changed.

The reference (reference.py) is run once per cell, in float64, with an edit at the cell's place. The limit is 1e-5 on logit differences.
"""

from __future__ import annotations

import itertools
import warnings

import fluoroscope as fs
import numpy as np
import pytest
import torch

from .compare import TINY, compared
from .reference import Trace, Weights, trace
from .slow_edits import by_position, like_site

LIMIT = 1e-5
LONG = [0, 17, 42, 9, 42, 8, 133, 299]
OTHER = [0, 17, 42, 250, 42, 7, 133, 299]
SHORT = [0, 17, 9, 42, 8, 299]
RIGHT, WRONG = [5, 11], [17]
MODELS = ["gqa-tied-sharded", "two", "biases", "two-untied-head20"]
SITES = ["hook_resid_pre", "hook_resid_mid", "hook_attn_out", "hook_mlp_out", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z",
         "attn.hook_pattern", "attn.hook_attn_scores", "mlp.hook_post", "ln1.hook_scale"]  # fmt: skip
KEYS = ("attn.hook_pattern", "attn.hook_attn_scores")


def difference(logits: torch.Tensor) -> float:
    last = logits[-1]
    return float(last[RIGHT].mean() - last[WRONG].mean())


METRIC = fs.metrics.logit_diff(RIGHT, WRONG)
TOKEN = 5


def slow_cell(w: Weights, base: list[int], source: Trace, sites: list[str], places, heads, units, mapped=None, read=difference):
    """`read` of the logits of the base run with the source's values at the places (positions of the base), heads and units of these hook points (None: all)."""

    def edit(name: str, value: torch.Tensor) -> torch.Tensor:
        if name not in sites:
            return value
        out, lender = by_position(name, value.clone()).clone(), by_position(name, source.sites[name])
        for p in places:
            there = p if mapped is None else mapped[p]
            for h in range(out.shape[1]) if heads is None else heads:
                chosen = list(range(out.shape[2])) if units is None else units
                if there >= 0:
                    out[p, h, chosen] = lender[there, h, chosen]
        return like_site(name, out, value.shape)

    return read(trace(w, base, edit).logits)


def heads_of(w: Weights, site: str) -> int:
    return w.kv_heads if site in ("attn.hook_k", "attn.hook_v") else w.heads


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", MODELS)
def test_layers_by_positions(client, exact, name, site):
    w = exact(name)
    got = client.model(name).sweep(OTHER, LONG, site, ("layer", "position"), METRIC)
    source = trace(w, OTHER)
    assert got.values.shape == (len(w.layers), len(LONG))
    slow = np.array([[slow_cell(w, LONG, source, [f"blocks.{layer}.{site}"], [p], None, None) for p in range(len(LONG))] for layer in range(len(w.layers))])
    assert np.abs(got.values - slow).max() <= LIMIT
    assert np.abs(slow - difference(trace(w, LONG).logits)).max() > 1e-3  # something happened
    assert got.base == pytest.approx(difference(trace(w, LONG).logits), abs=LIMIT)
    assert got.source == pytest.approx(difference(source.logits), abs=LIMIT)


@pytest.mark.parametrize("site", ["attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_pattern", "attn.hook_result"])
@pytest.mark.parametrize("name", MODELS)
def test_heads_by_positions(client, exact, name, site):
    w = exact(name)
    got = client.model(name).sweep(LONG, OTHER, site, ("layer", "head", "position"), METRIC, direction="noise", layers=[0, -1])
    source, layers, count = trace(w, OTHER), [0, len(w.layers) - 1], heads_of(w, site)
    slow = [slow_cell(w, LONG, source, [f"blocks.{layer}.{site}"], [p], [h], None)
            for layer, h, p in itertools.product(layers, range(count), range(len(LONG)))]  # fmt: skip
    assert np.abs(got.values - np.reshape(slow, got.values.shape)).max() <= LIMIT


@pytest.mark.parametrize("name", MODELS)
def test_pattern_by_destination_and_source(client, exact, name):
    w = exact(name)
    got = client.model(name).sweep(OTHER, LONG, "pattern", ("layer", "head", "position", "source"), METRIC, layers=[1], heads=[0, 1])
    assert [axis.name for axis in got.axes] == ["layer", "head", "position", "source"]
    source = trace(w, OTHER)
    slow = [slow_cell(w, LONG, source, ["blocks.1.attn.hook_pattern"], [p], [h], [k])
            for h, p, k in itertools.product([0, 1], range(len(LONG)), range(len(LONG)))]  # fmt: skip
    assert np.abs(got.values - np.reshape(slow, got.values.shape)).max() <= LIMIT


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_neurons_in_blocks(client, exact, name):
    w = exact(name)
    got = client.model(name).sweep(OTHER, LONG, "mlp.hook_post", ("layer", "unit"), METRIC, unit_block=32)
    source, count = trace(w, OTHER), w.layers[0].w_in.shape[1]
    blocks = [list(range(at, min(at + 32, count))) for at in range(0, count, 32)]
    assert got.axes[1].labels == tuple(f"{block[0]}-{block[-1]}" for block in blocks)
    slow = [[slow_cell(w, LONG, source, [f"blocks.{layer}.mlp.hook_post"], range(len(LONG)), None, block) for block in blocks] for layer in range(len(w.layers))]
    assert np.abs(got.values - slow).max() <= LIMIT
    few = client.model(name).sweep(OTHER, LONG, "mlp.hook_post", ("unit", "position"), METRIC, units=[3, 30], layers=[1])
    slow = [[slow_cell(w, LONG, source, ["blocks.1.mlp.hook_post"], [p], None, [unit]) for p in range(len(LONG))] for unit in (3, 30)]
    assert np.abs(few.values - slow).max() <= LIMIT


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_sites_windows_groups_and_unequal_lengths(client, exact, name):
    w, model = exact(name), client.model(name)
    mapped = model.align(LONG, SHORT)
    assert mapped == [0, 1, 3, 4, 5, 7]
    groups = {"front": [0, 1, 2], "end": "last"}
    got = model.sweep(LONG, SHORT, ("resid_pre", "mlp_out", "attn_out"), ("layer", "position"), METRIC, groups=groups, source_positions=mapped, window=2)
    assert [axis.labels for axis in got.axes] == [("hook_resid_pre", "hook_mlp_out", "hook_attn_out"), tuple(map(str, range(len(w.layers)))), ("front", "end")]
    source = trace(w, LONG)
    slow = [
        slow_cell(w, SHORT, source, [f"blocks.{at}.{site}" for at in (layer, layer + 1)], places, None, None, mapped)
        for site, layer, places in itertools.product(["hook_resid_pre", "hook_mlp_out", "hook_attn_out"], range(len(w.layers)), [[0, 1, 2], [5]])
    ]
    assert np.abs(got.values - np.reshape(slow, got.values.shape)).max() <= LIMIT


@pytest.mark.parametrize("site", ["hook_resid_pre", "attn.hook_z", "mlp.hook_post"])
@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_ablations(client, exact, name, site):
    w, model = exact(name), client.model(name)
    references = [SHORT, OTHER, [7, 9, 9, 200]]
    values = [trace(w, ids) for ids in references]
    heads = site == "attn.hook_z"
    over = ("layer", "head", "position") if heads else ("layer", "position")

    def slow(lender: Trace) -> np.ndarray:
        return np.reshape([
            slow_cell(w, LONG, lender, [f"blocks.{layer}.{site}"], [p], [h] if heads else None, None)
            for layer, h, p in itertools.product(range(len(w.layers)), range(w.heads if heads else 1), range(len(LONG)))
        ], shape)  # fmt: skip

    zero, mean = Trace(), Trace()
    for layer in range(len(w.layers)):
        at = f"blocks.{layer}.{site}"
        all_positions = torch.cat([value.sites[at] for value in values]).mean(0, keepdim=True)
        mean.sites[at] = all_positions.expand(len(LONG), *all_positions.shape[1:])
        zero.sites[at] = torch.zeros_like(mean.sites[at])
    got = model.sweep(OTHER, LONG, site, over, METRIC, kind="zero")
    shape = got.values.shape
    assert np.abs(got.values - slow(zero)).max() <= LIMIT
    got = model.sweep(OTHER, LONG, site, over, METRIC, kind="mean", references=references)
    assert np.abs(got.values - slow(mean)).max() <= LIMIT
    # Only OTHER is as long as LONG.
    got = model.sweep(OTHER, LONG, site, over, METRIC, kind="resample", references=references, seed=3)
    assert np.abs(got.values - slow(values[1])).max() <= LIMIT


def test_resampled_values_come_from_other_pairs(client, exact):
    w = exact("two")
    rng = np.random.default_rng(0)
    prompts = [[int(i) for i in rng.integers(2, 300, 6)] for _ in range(5)]
    sweep = client.model("two").sweep(prompts, prompts[::-1], "attn_out", ("layer",), METRIC, kind="resample", seed=9)
    again = client.model("two").sweep(prompts, prompts[::-1], "attn_out", ("layer",), METRIC, kind="resample", seed=9)
    assert np.array_equal(sweep.per_pair, again.per_pair)
    traces = [trace(w, ids) for ids in prompts]
    for pair, base in enumerate(prompts[::-1]):
        # The prompt itself lends nothing to its own pair.
        possible = [[slow_cell(w, base, lender, [f"blocks.{at}.hook_attn_out"], range(6), None, None) for at in range(3)]
                    for number, lender in enumerate(traces) if number != pair]  # fmt: skip
        assert min(np.abs(sweep.per_pair[pair] - option).max() for option in possible) <= LIMIT


def test_many_pairs_with_their_own_answers(client, exact):
    """Pair 3 is delicate: at layer 1, position 6 the slow way itself is 1.5e-5 away from float64 when it is run in float32, and the server's own single
    patched forward 0.9e-5. So the limit here is the one for plain runs."""
    w, model = exact("gqa-tied-sharded"), client.model("gqa-tied-sharded")
    rng = np.random.default_rng(1)
    pairs = [([int(i) for i in rng.integers(2, 300, 7)], [int(i) for i in rng.integers(2, 300, 7)]) for _ in range(6)]
    right, wrong = [int(i) for i in rng.integers(0, 300, 6)], [int(i) for i in rng.integers(0, 300, 6)]
    metrics = [fs.metrics.logit_diff(right, wrong, per_prompt=True), fs.metrics.prob(right, per_prompt=True), fs.metrics.rank(right, per_prompt=True)]
    got = model.sweep([a for a, _ in pairs], [b for _, b in pairs], "resid_pre", ("layer", "position"), metrics)
    for pair, (clean, corrupt) in enumerate(pairs):
        source = trace(w, clean)
        for layer, p in itertools.product(range(3), range(7)):
            name = f"blocks.{layer}.hook_resid_pre"

            def put(site, value, name=name, p=p, source=source):
                return torch.cat([value[:p], source.sites[name][p : p + 1], value[p + 1 :]]) if site == name else value

            last = trace(w, corrupt, put).logits[-1]
            expected = [last[right[pair]] - last[wrong[pair]], last.softmax(-1)[right[pair]], (last > last[right[pair]]).sum() + 1]
            for metric, value in zip(metrics, expected, strict=True):
                assert got[metric].per_pair[pair, layer, p] == pytest.approx(float(value), abs=TINY), (pair, layer, p, metric)
    diff = got[metrics[0]]
    normalized = (diff.per_pair.mean(0) - diff.base.mean()) / (diff.source.mean() - diff.base.mean())
    assert np.array_equal(diff.normalized, normalized)


METRICS = [
    lambda of: of.logits(TOKEN),
    lambda of: of.prob(TOKEN),
    lambda of: of.logprob(TOKEN),
    lambda of: of.cross_entropy(TOKEN),
    lambda of: of.kl(),
    lambda of: of.js(),
]


def slow_metric(name: str, logits: torch.Tensor, base: torch.Tensor) -> float:
    """By the metric's own name; `base` are the last logits of the base run."""
    if name == METRIC.name:
        return difference(logits)
    last, logprobs = logits[-1], logits[-1].log_softmax(-1)
    if name in ("kl", "js"):
        return compared(name, base, last)
    return float({"logits": last, "prob": logprobs.exp(), "logprob": logprobs, "cross_entropy": -logprobs}[name][TOKEN])


def test_the_plan_never_changes_a_value(client, exact):
    """Random prompts, lengths, sites, axes, directions and metrics against the slow way."""
    rng = np.random.default_rng(20261125)
    names = ["gqa-tied-sharded", "two", "deep", "rope-bands-new", "two-unscaled-silu"]
    for round_ in range(120):
        name, site = str(rng.choice(names)), str(rng.choice(SITES))
        w, model = exact(name), client.model(name)
        length = int(rng.integers(1, 20))
        base = [int(i) for i in rng.integers(0, 300, length)]
        equal = site in KEYS or rng.random() < 0.5
        if equal:
            source_ids = [i if rng.random() < 0.6 else int(rng.integers(0, 300)) for i in base]
            mapped = None
        else:
            source_ids = [int(i) for i in rng.integers(0, 300, int(rng.integers(1, 20)))]
            mapped = [int(i) for i in rng.integers(-1, len(source_ids), length)]
        noise = bool(rng.random() < 0.5)
        has_heads = site.startswith("attn.") and rng.random() < 0.5
        positions = sorted({int(p) for p in rng.integers(0, length, 3)})
        over = ["layer", *(["head"] if has_heads else []), "position"]
        rng.shuffle(over)
        window = int(rng.integers(1, len(w.layers) + 1))
        clean, corrupt = (base, source_ids) if noise else (source_ids, base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fs.FluoroscopeWarning)  # both prompts may be the same
            kinds = [METRIC, *(METRICS[int(i)](fs.metrics) for i in rng.choice(len(METRICS), 2, replace=False))]
            got = model.sweep(clean, corrupt, site, over, kinds, direction="noise" if noise else "denoise", positions=positions,
                              source_positions=mapped, window=window)  # fmt: skip
        source, base_logits = trace(w, source_ids), trace(w, base).logits[-1]
        sizes = {"layer": range(len(w.layers)), "head": range(heads_of(w, site)), "position": positions}
        slow = []
        for cell in itertools.product(*(sizes[axis] for axis in over)):
            at = dict(zip(over, cell, strict=True))
            layers = [f"blocks.{layer}.{site}" for layer in range(at["layer"], min(at["layer"] + window, len(w.layers)))]
            read = lambda logits: [slow_metric(kind.name, logits, base_logits) for kind in kinds]  # noqa: E731
            slow.append(slow_cell(w, base, source, layers, [at["position"]], [at["head"]] if has_heads else None, None, mapped, read))
        for i, kind in enumerate(kinds):
            worst = np.abs(got[kind].values - np.reshape([cell[i] for cell in slow], got[kind].values.shape)).max()
            assert worst <= LIMIT, (round_, name, site, over, kind.name, worst)
