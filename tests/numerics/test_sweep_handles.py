"""Sweeps whose cells copy the values of handles: each cell equals one whole forward of the reference (float64) with these values at the cell's place, and
those of a kept capture give what the prompt itself gives."""

from __future__ import annotations

import itertools

import fluoroscope as fs
import numpy as np
import pytest
import torch

from .reference import Trace, trace
from .test_sweeps import LIMIT, LONG, METRIC, OTHER, SHORT, SITES, difference, heads_of, slow_cell

MODELS = ["gqa-tied-sharded", "two"]


@pytest.fixture(autouse=True)
def nothing_is_left(client):
    yield
    assert client.handles() == []


def given(model, site: str, ids: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for a site in all layers, of the right shape, unlike any that a run has."""
    rng = np.random.default_rng(seed)
    _, cache = model.run_with_cache(ids, f"blocks.*.{site}", logits=None)
    values = {name: rng.normal(size=cache[name][0].shape).astype(np.float32) for name in cache}
    for name, value in values.items():
        if "scale" in name or "pattern" in name:  # positive; of a pattern also where no query may look
            np.abs(value, out=value)
        if "scores" in name:
            value[:, np.triu_indices(len(ids), 1)[0], np.triu_indices(len(ids), 1)[1]] = -np.inf
    return values


def as_trace(values: dict[str, np.ndarray]) -> Trace:
    made = Trace()
    for name, value in values.items():
        made.sites[name] = torch.from_numpy(value).double()
    return made


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", MODELS)
def test_a_kept_capture_is_what_the_prompt_is(client, name, site):
    model = client.model(name)
    by_prompt = model.sweep(OTHER, LONG, site, ("layer", "position"), METRIC)
    with model.keep(OTHER, f"blocks.*.{site}") as handles:
        both = model.sweep(OTHER, LONG, site, ("layer", "position"), METRIC, source=handles)
        alone = model.sweep(None, LONG, site, ("layer", "position"), METRIC, source=handles)
    assert np.abs(both.values - by_prompt.values).max() <= LIMIT
    assert np.abs(alone.values - by_prompt.values).max() <= LIMIT
    # The prompt is there to compare with; without it there is nothing to compare with, and that is said.
    assert both.source == pytest.approx(by_prompt.source, abs=LIMIT) and both.base == pytest.approx(by_prompt.base, abs=LIMIT)
    range_ = abs(by_prompt.source[0] - by_prompt.base[0])  # what the values, each within LIMIT, are divided by
    assert np.abs(both.normalized - by_prompt.normalized).max() <= 4 * LIMIT * (1 + np.abs(by_prompt.normalized).max()) / range_
    assert np.isnan(alone.source).all() and alone.base == pytest.approx(by_prompt.base, abs=LIMIT)
    with pytest.raises(ValueError, match="no source run to normalise by: the values come from handles"):
        _ = alone.normalized
    assert "no source run" in repr(alone)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", MODELS)
def test_uploaded_values(client, exact, name, site):
    """The tokens say nothing about them: no cell may be taken for the base run, not even where both prompts are the same."""
    w, model = exact(name), client.model(name)
    values = given(model, site, LONG)
    handles = [model.put(at, value) for at, value in values.items()]
    got = model.sweep(LONG, LONG, site, ("layer", "position"), METRIC, source=handles)
    for handle in handles:
        handle.delete()
    slow = [[slow_cell(w, LONG, as_trace(values), [f"blocks.{layer}.{site}"], [p], None, None) for p in range(len(LONG))] for layer in range(len(w.layers))]
    assert np.abs(got.values - slow).max() <= LIMIT
    changed = np.abs(np.array(slow) - difference(trace(w, LONG).logits)) > 1e-4
    assert changed.mean() > 0.4  # something happened
    assert got.estimate.filled_cells == 0 and not got.warnings


@pytest.mark.parametrize("name", MODELS)
def test_a_pattern_by_destination_and_source(client, exact, name):
    """Also where a query may not look by itself: what is given is done."""
    w, model = exact(name), client.model(name)
    values = given(model, "attn.hook_pattern", LONG)
    with model.put("blocks.1.attn.hook_pattern", values["blocks.1.attn.hook_pattern"]) as handle:
        got = model.sweep(None, LONG, "pattern", ("head", "position", "source"), METRIC, layers=[1], heads=[1], source=handle)
    slow = [slow_cell(w, LONG, as_trace(values), ["blocks.1.attn.hook_pattern"], [p], [1], [k]) for p, k in itertools.product(range(8), range(8))]
    assert np.abs(got.values - np.reshape(slow, (1, 8, 8))).max() <= LIMIT
    assert np.abs(got.values[0, 3, 5] - got.base[0]) > 1e-4


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["attn.hook_z", "attn.hook_k", "attn.hook_result"])
def test_parts_of_a_hook_point(client, exact, name, site):
    """Handles that have only what the cells change: some positions, heads and units."""
    w, model = exact(name), client.model(name)
    heads, positions, units, layers = [0, heads_of(w, site) - 1], [2, 5, 7], [1, 3, 4], [0, 2]
    values = {at: value for at, value in given(model, site, LONG).items() if int(at.split(".")[1]) in layers}
    handles = [model.put(at, value[np.ix_(positions, heads, units)], positions=positions, heads=heads, units=units) for at, value in values.items()]
    options = {"layers": layers, "heads": heads, "positions": [7, 2]}
    got = model.sweep(LONG, None, site, ("layer", "head", "position", "unit"), METRIC, direction="noise", units=[4, 1], source=handles, **options)
    slow = [slow_cell(w, LONG, as_trace(values), [f"blocks.{layer}.{site}"], [p], [h], [u]) for layer, h, p, u in itertools.product(layers, heads, [2, 7], [1, 4])]
    assert np.abs(got.values - np.reshape(slow, got.values.shape)).max() <= LIMIT
    together = model.sweep(LONG, None, site, ("position", "layer"), METRIC, direction="noise", units=units, source=handles, **options)
    slow = [slow_cell(w, LONG, as_trace(values), [f"blocks.{layer}.{site}"], [p], heads, units) for p, layer in itertools.product([2, 7], layers)]
    assert np.abs(together.values - np.reshape(slow, together.values.shape)).max() <= LIMIT
    for handle in handles:
        handle.delete()


@pytest.mark.parametrize("name", MODELS)
def test_windows_groups_and_unequal_lengths(client, exact, name):
    w, model = exact(name), client.model(name)
    mapped, groups = [7, 1, -1, 4, 4, 0], {"front": [0, 1, 2], "middle": [2], "end": "last"}
    with model.keep(LONG, ["blocks.*.hook_attn_out", "blocks.*.hook_resid_mid"]) as handles:
        got = model.sweep(OTHER, SHORT, ("attn_out", "resid_mid"), ("layer", "position"), METRIC, groups=groups, window=2, window_before=1,
                          source=handles, source_positions=mapped)  # fmt: skip
    source = trace(w, LONG)
    slow = [
        slow_cell(w, SHORT, source, [f"blocks.{at}.{site}" for at in (layer - 1, layer)], places, None, None, mapped)
        for site, layer, places in itertools.product(["hook_attn_out", "hook_resid_mid"], range(len(w.layers)), [[0, 1, 2], [2], [5]])
    ]
    assert np.abs(got.values - np.reshape(slow, got.values.shape)).max() <= LIMIT
    assert got.source == pytest.approx(difference(trace(w, OTHER).logits), abs=LIMIT)  # the prompt's, whatever its length


def test_several_pairs(client, exact):
    """Handles of several prompts by their rows, one entry for each pair, or one handle for all; pairs without a source prompt beside pairs with one."""
    w, model = exact("two"), client.model("two")
    bases, sources, site = [LONG, OTHER[::-1]], [OTHER, LONG[::-1]], "blocks.1.hook_resid_pre"
    expected = model.sweep(sources, bases, "resid_pre", ("layer", "position"), METRIC)
    with model.keep(sources, "blocks.*.hook_resid_pre") as handles:
        got = model.sweep(None, bases, "resid_pre", ("layer", "position"), METRIC, source=handles)
        assert np.abs(got.per_pair - expected.per_pair).max() <= LIMIT
        rows = [[handle for handle in handles.all() if handle.row == row] for row in (1, 0)]
        crossed = model.sweep(None, bases, "resid_pre", ("layer", "position"), METRIC, source=rows)
    traces = [trace(w, ids) for ids in sources]
    for pair in range(2):
        slow = [[slow_cell(w, bases[pair], traces[1 - pair], [f"blocks.{layer}.hook_resid_pre"], [p], None, None) for p in range(8)] for layer in range(3)]
        assert np.abs(crossed.per_pair[pair] - slow).max() <= LIMIT
    vector = np.random.default_rng(7).normal(size=(1, 48)).astype(np.float32)
    with model.put(site, vector, positions=[7]) as steering:
        got = model.sweep(None, bases, "resid_pre", ("layer",), METRIC, layers=1, positions="last", source=steering)
    value = {site: np.repeat(vector, 8, 0)}
    slow = [slow_cell(w, base, as_trace(value), [site], [7], None, None) for base in bases]
    assert np.abs(got.per_pair[:, 0] - slow).max() <= LIMIT


@pytest.mark.parametrize("name", MODELS)
def test_beside_a_corrupted_base(client, name):
    """The base run's own noise is in front of the cells; values of the clean prompt's handles restore what the clean prompt restores."""
    model = client.model(name)
    options = {"corrupt_with": [fs.noise(fs.at("hook_embed", positions=[1, 2]), 3.0, seed=4)], "metric": METRIC}
    expected = model.sweep(LONG, LONG, **options)
    with model.keep(LONG, "blocks.*.hook_resid_pre") as handles:
        got = model.sweep(LONG, LONG, source=handles, **options)
    assert np.abs(got.values - expected.values).max() <= LIMIT
    assert np.abs(got.values - got.base[0]).max() > 1e-3


def test_fast(client):
    """Both runs of a fast sweep copy the same given values."""
    model = client.model("two")
    values = given(model, "hook_resid_pre", LONG, seed=3)
    handles = [model.put(at, value) for at, value in values.items()]
    exact_ = model.sweep(None, LONG, metric=METRIC, source=handles)
    fast = model.sweep(None, LONG, metric=METRIC, source=handles, precision="fast", recheck=(5, 5))
    for handle in handles:
        handle.delete()
    checked = ~np.isnan(fast.precision.exact)
    assert checked.sum() == 10 == len(fast.precision.cells)
    assert np.abs(fast.precision.exact - exact_.values)[checked].max() <= LIMIT
    assert np.abs(fast.values - exact_.values)[checked].max() == pytest.approx(fast.precision.largest_difference, abs=LIMIT)
    # bfloat16 has 8 bits: not the same numbers, but near them beside what the cells change.
    assert 0 < np.abs(fast.values - exact_.values).max() < 0.1 * np.abs(exact_.values - exact_.base[0]).max()


def test_comparisons(client):
    """kl to the base run works without a source prompt; to the source run it needs one."""
    model = client.model("two")
    kl, to_source = fs.metrics.kl(), fs.metrics.kl(reference=OTHER)
    expected = model.sweep(OTHER, LONG, metric=[kl, to_source])
    with model.keep(OTHER, "blocks.*.hook_resid_pre") as handles:
        got = model.sweep(OTHER, LONG, metric=[kl, to_source], source=handles)
        alone = model.sweep(None, LONG, metric=kl, source=handles)
        with pytest.raises(ValueError, match="the pair's own runs"):
            model.sweep(None, LONG, metric=to_source, source=handles)
    for metric in (kl, to_source):
        assert np.abs(got[metric].values - expected[metric].values).max() <= LIMIT
    assert np.abs(alone.values - expected[kl].values).max() <= LIMIT
    assert np.isnan(alone.source).all()


def test_the_plan_knows_the_values_not_the_handle(client):
    model = client.model("two")
    values = given(model, "hook_mlp_out", LONG)["blocks.1.hook_mlp_out"]
    hashes = []
    for value in (values, values, values + 1):
        with model.put("blocks.1.hook_mlp_out", value) as handle:
            hashes.append(model.sweep(None, LONG, "mlp_out", ("position",), METRIC, layers=1, source=handle).provenance.plan_sha256)
    assert hashes[0] == hashes[1] != hashes[2]
