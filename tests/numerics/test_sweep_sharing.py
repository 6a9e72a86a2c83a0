"""What both prompts of a pair begin with is computed once, at the base run. No value changes by that: cells against the slow way, for prompts with long
common fronts, also where values are copied from inside the front to other places, or where what runs beside the base run is not the source."""

from __future__ import annotations

import itertools
import warnings

import fluoroscope as fs
import numpy as np
import pytest
import torch

from .compare import TINY
from .reference import trace
from .slow_paths import Node, slow_path
from .test_sweeps import KEYS, LIMIT, METRIC, SITES, difference, heads_of, slow_cell

NAMES = ["gqa-tied-sharded", "two", "deep", "rope-bands-new", "biases"]


def fronted(rng: np.random.Generator, length: int, other: int, common: int) -> tuple[list[int], list[int]]:
    """Two random prompts of these lengths whose first `common` tokens are the same."""
    base = [int(i) for i in rng.integers(0, 300, length)]
    source = base[:common] + [int(i) for i in rng.integers(0, 300, other - common)]
    return base, source


def test_long_fronts_never_change_a_value(client, exact):
    """Random sites, directions, lengths and maps; copied positions stay in place, or come from anywhere in the source, the front included.

    One round is delicate: there the whole source run, without a shared front, leaves cells 1.5e-5 from float64. So the limit is the one for plain runs; all
    other rounds stay under 1e-5.
    """
    rng = np.random.default_rng(20261127)
    for round_ in range(60):
        name, site = str(rng.choice(NAMES)), str(rng.choice(SITES))
        w, model = exact(name), client.model(name)
        length = int(rng.integers(2, 60))
        other = length if site in KEYS or rng.random() < 0.5 else int(rng.integers(2, 60))
        common = int(rng.integers(1, min(length, other) + 1))
        base, source_ids = fronted(rng, length, other, common)
        mapped = None
        if length != other or rng.random() < 0.3:
            mapped = [p if p < common else int(rng.integers(-1, other)) for p in range(length)]
            if rng.random() < 0.5:  # also out of the front, and into it
                mapped = [int(rng.integers(-1, other)) if rng.random() < 0.3 else p for p in mapped]
        noise = bool(rng.random() < 0.5)
        has_heads = site.startswith("attn.") and rng.random() < 0.5
        groups = {str(i): sorted({int(p) for p in rng.integers(0, length, 4)}) for i in range(3)}
        over = ("layer", "head", "position") if has_heads else ("layer", "position")
        layers = sorted({int(i) for i in rng.integers(0, len(w.layers), 2)})
        clean, corrupt = (base, source_ids) if noise else (source_ids, base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fs.FluoroscopeWarning)  # both prompts may be the same
            got = model.sweep(clean, corrupt, site, over, METRIC, direction="noise" if noise else "denoise", groups=groups, source_positions=mapped,
                              layers=layers)  # fmt: skip
        source = trace(w, source_ids)
        slow = [slow_cell(w, base, source, [f"blocks.{layer}.{site}"], places, [h] if has_heads else None, None, mapped)
                for layer, h, places in itertools.product(layers, range(heads_of(w, site) if has_heads else 1), groups.values())]  # fmt: skip
        worst = np.abs(got.values - np.reshape(slow, got.values.shape)).max()
        assert worst <= TINY, (round_, name, site, length, other, common, worst)
        assert got.base == pytest.approx(difference(trace(w, base).logits), abs=TINY)
        assert got.source == pytest.approx(difference(source.logits), abs=TINY)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_many_pairs_with_fronts_of_all_lengths(client, exact, name):
    """More lines than one batch takes, so that base and source runs of many pairs share batches; each source run must find its own base run."""
    w, model = exact(name), client.model(name)
    rng = np.random.default_rng(3)
    pairs = []
    for length in [*range(2, 40), *range(50, 60)] * 2:
        other = int(rng.integers(max(2, length - 9), length + 4))
        pairs.append(fronted(rng, length, other, int(rng.integers(0, min(length, other)))))
    assert sum(len(base) for base, _ in pairs) > 2 * 1024
    maps = [[p if p < len(source) else -1 for p in range(len(base))] for base, source in pairs]
    got = model.sweep([s for _, s in pairs], [b for b, _ in pairs], "resid_pre", ("layer", "position"), METRIC, groups={"end": "last"}, layers=[1],
                      source_positions=maps)  # fmt: skip
    for i, (base, source_ids) in enumerate(pairs):
        source = trace(w, source_ids)
        slow = slow_cell(w, base, source, ["blocks.1.hook_resid_pre"], [len(base) - 1], None, None, maps[i])
        assert got.per_pair[i, 0, 0] == pytest.approx(slow, abs=TINY), i
        assert got.source[i] == pytest.approx(difference(source.logits), abs=TINY), i


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_resampled_values_from_a_prompt_with_another_front(client, exact, name):
    """The prompt that lends values shares another front with the base run than the source does; corrupted runs share what lies before the corruption."""
    w, model = exact(name), client.model(name)
    rng = np.random.default_rng(4)
    base, source_ids = fronted(rng, 20, 20, 6)
    lender = base[:13] + [int(i) for i in rng.integers(0, 300, 7)]
    lent = trace(w, lender)
    places = [2, 12, 14, 19]
    for noise in (False, True):
        clean, corrupt = (base, source_ids) if noise else (source_ids, base)
        changed = fs.interventions.zero(fs.at("hook_embed", positions=[3]))
        for edits in ([], [changed]):
            got = model.sweep(clean, corrupt, "attn_out", ("layer", "position"), METRIC, kind="resample", references=[lender], seed=1, positions=places,
                              direction="noise" if noise else "denoise", corrupt_with=edits)  # fmt: skip

            def corrupted(site, value, edits=edits):
                return torch.cat([value[:3], 0 * value[3:4], value[4:]]) if edits and site == "hook_embed" else value

            for layer, (at, p) in itertools.product(range(len(w.layers)), enumerate(places)):

                def put(site, value, layer=layer, p=p, noise=noise, corrupted=corrupted):
                    if site == f"blocks.{layer}.hook_attn_out":
                        return torch.cat([value[:p], lent.sites[site][p : p + 1], value[p + 1 :]])
                    return value if noise else corrupted(site, value)

                assert got.values[layer, at] == pytest.approx(difference(trace(w, base, put).logits), abs=LIMIT), (noise, layer, p)
            source = trace(w, source_ids, corrupted if noise else lambda _, value: value)
            assert got.source == pytest.approx(difference(source.logits), abs=LIMIT)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_paths_whose_senders_copy_from_inside_the_front(client, exact, name):
    w, model = exact(name), client.model(name)
    base, source_ids = fronted(np.random.default_rng(5), 16, 18, 9)
    mapped = [0, 1, 2, 3, 7, 5, 6, 12, 8, 9, 10, 11, 4, 13, 16, 17]
    positions = [4, 7, 9, 12, 15]
    got = model.path_patch(base, source_ids, "heads", [("q", 1, 1), "logits"], METRIC, source_positions=mapped, sender_positions=positions)
    before, source = trace(w, base), trace(w, source_ids)
    for r, receiver in enumerate([Node("blocks.1.attn.hook_q", (1,)), Node("logits")]):
        for s, (layer, h) in enumerate(itertools.product(range(len(w.layers)), range(w.heads))):
            if r == 0 and layer > 0:  # a query reads what was written before its layer
                assert np.isnan(got.values[r, s])
                continue
            slow = slow_path(w, base, before, source, [Node(f"blocks.{layer}.attn.hook_z", (h,))], [receiver], lambda last: difference(last[None]),
                             sender_positions=positions, receiver_positions=range(16), source_of=mapped)  # fmt: skip
            assert got.values[r, s] == pytest.approx(slow, abs=LIMIT, nan_ok=True), (r, layer, h)
