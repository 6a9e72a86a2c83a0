"""Sweeps and path patching with metrics that compare each cell's distribution with the pair's base or source run, against whole forwards in float64."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest
import torch

from .compare import TINY, compared
from .reference import trace
from .slow_paths import Node, slow_path

CLEAN, CORRUPT = [0, 17, 42, 9, 42, 8, 133, 299], [0, 17, 42, 250, 42, 7, 133, 299]
MODELS = ["gqa-tied-sharded", "two"]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", MODELS)
def test_sweeps(client, exact, name, direction):
    w = exact(name)
    base_ids, source_ids = (CORRUPT, CLEAN) if direction == "denoise" else (CLEAN, CORRUPT)
    base, source = trace(w, base_ids), trace(w, source_ids)
    kinds = ["kl", "js", "l2"]
    to_base = [getattr(fs.metrics, kind)() for kind in kinds]
    to_source = [getattr(fs.metrics, kind)(source_ids, name=f"{kind} to source") for kind in kinds]
    diff = fs.metrics.logit_diff(5, 17)
    got = client.model(name).sweep(CLEAN, CORRUPT, "resid_pre", ("layer", "position"), [*to_base, diff, *to_source], direction=direction)
    for layer in range(3):
        for p in range(len(CLEAN)):

            def put(site, value, layer=layer, p=p):
                name = f"blocks.{layer}.hook_resid_pre"
                return torch.cat([value[:p], source.sites[name][p : p + 1], value[p + 1 :]]) if site == name else value

            last = trace(w, base_ids, put).logits[-1]
            for metrics, reference in ((to_base, base), (to_source, source)):
                for kind, metric in zip(kinds, metrics, strict=True):
                    assert got[metric].values[layer, p] == pytest.approx(compared(kind, reference.logits[-1], last), abs=TINY), (kind, layer, p)
            assert got[diff].values[layer, p] == pytest.approx(float(last[5] - last[17]), abs=TINY)
    for kind, mine, theirs in zip(kinds, to_base, to_source, strict=True):
        apart = compared(kind, base.logits[-1], source.logits[-1]), compared(kind, source.logits[-1], base.logits[-1])
        assert got[mine].base == pytest.approx(0, abs=TINY) and got[mine].source == pytest.approx(apart[0], abs=TINY)
        assert got[theirs].source == pytest.approx(0, abs=TINY) and got[theirs].base == pytest.approx(apart[1], abs=TINY)


@pytest.mark.parametrize("name", MODELS)
def test_pairs_each_with_their_own_reference_and_position(client, exact, name):
    w = exact(name)
    pairs = [(CLEAN, CORRUPT), ([5, 6, 7, 8], [5, 9, 7, 8])]
    metric = fs.metrics.kl([clean for clean, _ in pairs], positions=-2)
    got = client.model(name).sweep([a for a, _ in pairs], [b for _, b in pairs], "attn_out", ("layer",), metric)
    for i, (clean, corrupt) in enumerate(pairs):
        source = trace(w, clean)
        slow = []
        for layer in range(3):
            site = f"blocks.{layer}.hook_attn_out"
            run = trace(w, corrupt, lambda n, v, site=site, source=source: source.sites[n] if n == site else v)
            slow.append(compared("kl", source.logits[-2], run.logits[-2]))
        assert got.per_pair[i] == pytest.approx(slow, abs=TINY)


@pytest.mark.parametrize("name", MODELS)
def test_path_patching(client, exact, name):
    w = exact(name)
    base, source = trace(w, CLEAN), trace(w, CORRUPT)
    got = client.model(name).path_patch(CLEAN, CORRUPT, [(0, 1), ("mlp", 1)], ["logits", ("q", 2, 0)], fs.metrics.kl())
    senders = [Node("blocks.0.attn.hook_z", (1,)), Node("blocks.1.hook_mlp_out")]
    receivers = [Node("logits"), Node("blocks.2.attn.hook_q", (0,))]
    everywhere = range(len(CLEAN))
    slow = [[slow_path(w, CLEAN, base, source, [s], [r], lambda last: compared("kl", base.logits[-1], last), sender_positions=everywhere,
                       receiver_positions=everywhere, source_of=everywhere) for s in senders] for r in receivers]  # fmt: skip
    assert np.abs(got.values - slow).max() <= TINY and got.values.min() > 0


def test_a_reference_of_another_prompt_is_refused(client):
    with pytest.raises(ValueError, match="compare with the pair's own runs"):
        client.model("two").sweep(CLEAN, CORRUPT, metric=fs.metrics.js([1, 2, 3]))


def test_attributions_have_no_comparisons(client):
    with pytest.raises(fs.InvalidArgumentError, match="'kl' has no gradient"):
        client.model("two").attribute(CLEAN, CORRUPT, metric=fs.metrics.kl())
