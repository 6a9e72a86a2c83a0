"""Path patching and causal tracing equal the slow way: whole forwards of the reference in float64, a cell at a time. Limit 1e-5 on logit differences."""

from __future__ import annotations

import itertools
import warnings

import fluoroscope as fs
import numpy as np
import pytest
import torch

from .reference import Weights, trace
from .slow_edits import normal
from .slow_paths import Node, noisy_embedding, slow_path, slow_trace

LIMIT = 1e-5
CLEAN = [0, 17, 42, 9, 42, 8, 133, 299]
CORRUPT = [0, 17, 42, 250, 42, 7, 133, 299]
RIGHT, WRONG = [5, 11], [17]
METRIC = fs.metrics.logit_diff(RIGHT, WRONG)
MODELS = ["mha", "gqa-tied-sharded", "biases", "two", "two-untied-head20"]
EVERYWHERE = list(range(len(CLEAN)))


def difference(last: torch.Tensor) -> float:
    return float(last[RIGHT].mean() - last[WRONG].mean())


def head(layer: int, *heads: int) -> Node:
    return Node(f"blocks.{layer}.attn.hook_z", heads)


def reads(letter: str, layer: int, *heads: int) -> Node:
    return Node(f"blocks.{layer}.attn.hook_{letter}", heads)


def mlp_out(layer: int) -> Node:
    return Node(f"blocks.{layer}.hook_mlp_out")


def mlp_in(layer: int) -> Node:
    return Node(f"blocks.{layer}.hook_mlp_in")


def all_senders(w: Weights) -> list[Node]:
    layers = range(len(w.layers))
    return [*(head(layer, h) for layer in layers for h in range(w.heads)), *(mlp_out(layer) for layer in layers), Node("hook_embed")]


def all_receivers(w: Weights) -> list[Node]:
    layers = range(len(w.layers))
    out = [Node("logits")]
    for letter, heads in (("q", w.heads), ("k", w.kv_heads), ("v", w.kv_heads)):
        out += [reads(letter, layer, h) for layer in layers for h in range(heads)]
    return [*out, *(mlp_in(layer) for layer in layers)]


def slow_grid(w, base_ids, source_ids, senders, receivers, *, sender_positions=EVERYWHERE, receiver_positions=EVERYWHERE, source_of=EVERYWHERE, **frozen):
    base, source = trace(w, base_ids), trace(w, source_ids)
    return np.array([[
        slow_path(w, base_ids, base, source, sender, receiver, difference, sender_positions=sender_positions, receiver_positions=receiver_positions,
                  source_of=source_of, **frozen)
        for sender in senders] for receiver in receivers])  # fmt: skip


def farthest(got: np.ndarray, slow: np.ndarray) -> float:
    """Between two grids that have the same paths."""
    assert (np.isnan(got) == np.isnan(slow)).all()
    return float(np.nanmax(np.abs(got - slow)))


@pytest.mark.parametrize(("mlps", "norms"), [("recompute", "recompute"), ("freeze", "recompute"), ("recompute", "freeze"), ("freeze", "freeze")])
@pytest.mark.parametrize("name", MODELS)
def test_every_receiver_by_every_sender(client, exact, name, mlps, norms):
    """Every part of the model to every other one; the whole grid is one request."""
    w = exact(name)
    got = client.model(name).path_patch(CLEAN, CORRUPT, ["heads", "mlps", "embed"], ["logits", "q", "k", "v", "mlps"], METRIC, mlps=mlps, norms=norms)
    senders, receivers = all_senders(w), all_receivers(w)
    assert got.values.shape == (len(receivers), len(senders))
    slow = slow_grid(w, CLEAN, CORRUPT, [[s] for s in senders], [[r] for r in receivers], mlps=mlps == "freeze", norms=norms == "freeze")
    assert farthest(got.values, slow) <= LIMIT
    base = difference(trace(w, CLEAN).logits[-1])
    assert np.nanmax(np.abs(slow - base)) > 1e-2  # something happened
    # No path leads to what is read in front of the sender: there is no value.
    behind = got.values[got.axes[0].labels.index("q 0.0"), : w.heads]
    assert np.isnan(behind).all() and got.estimate.filled_cells > 0
    assert not any(np.isnan(value) for _, value in got.top(5)) and "nan" not in repr(got)
    assert got.base == pytest.approx(base, abs=LIMIT) and got.source == pytest.approx(difference(trace(w, CORRUPT).logits[-1]), abs=LIMIT)


@pytest.mark.parametrize("name", MODELS)
def test_the_two_directions_differ(client, exact, name):
    w = exact(name)
    got = client.model(name).path_patch(CLEAN, CORRUPT, "heads", {"end": [("q", 1, 0)]}, METRIC, direction="denoise")
    slow = slow_grid(w, CORRUPT, CLEAN, [[head(layer, h)] for layer in range(len(w.layers)) for h in range(w.heads)], [[reads("q", 1, 0)]])
    assert farthest(got.values, slow) <= LIMIT
    assert got.axes[0].labels == ("end",) and got.axes[1].labels[1] == "0.1"


@pytest.mark.parametrize(("mlps", "norms"), [("recompute", "recompute"), ("freeze", "freeze")])
@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two", "deep"])
def test_sets_act_together_at_their_positions(client, exact, name, mlps, norms):
    w = exact(name)
    last = len(w.layers) - 1
    senders = {
        "two heads": [(0, 1), (0, 2)], "two layers": [(0, 1), (last, 0), ("mlp", 0)], "a layer and its mlp": ["embed", fs.at("blocks.0.attn.hook_z"), ("mlp", 0)],
        "mlps": ["mlps"], "behind": [("mlp", last)],
    }  # fmt: skip
    nodes = [
        [head(0, 1), head(0, 2)], [head(0, 1), head(last, 0), mlp_out(0)], [Node("hook_embed"), head(0, *range(w.heads)), mlp_out(0)],
        [mlp_out(layer) for layer in range(last + 1)], [mlp_out(last)],
    ]  # fmt: skip
    receivers = {"qs": [("q", last, 0), ("q", last, 1), ("k", last, 0)], "all": [("q", 1, 0), ("v", last, 0), ("mlp", 0), ("mlp", last)], "end": "logits"}
    read = [[reads("q", last, 0, 1), reads("k", last, 0)], [reads("q", 1, 0), reads("v", last, 0), mlp_in(0), mlp_in(last)], [Node("logits")]]
    for sender_positions, receiver_positions in [(EVERYWHERE, EVERYWHERE), ([3, 5, 7], [4, 5, 7]), ([7], EVERYWHERE), ([4], [5])]:
        got = client.model(name).path_patch(CLEAN, CORRUPT, senders, receivers, METRIC, mlps=mlps, norms=norms, sender_positions=sender_positions,
                                            receiver_positions=receiver_positions)  # fmt: skip
        slow = slow_grid(w, CLEAN, CORRUPT, nodes, read, sender_positions=sender_positions, receiver_positions=receiver_positions, mlps=mlps == "freeze",
                         norms=norms == "freeze")  # fmt: skip
        assert farthest(got.values, slow) <= LIMIT, (sender_positions, receiver_positions)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_unequal_lengths_and_several_pairs(client, exact, name):
    w, model = exact(name), client.model(name)
    short = [0, 17, 9, 42, 8, 299]
    mapped = model.align(CORRUPT, short)
    pairs = [(short, CORRUPT, mapped), ([5, 6, 7, 8], [5, 9, 7, 8], [0, 1, 2, 3])]
    got = model.path_patch([a for a, _, _ in pairs], [b for _, b, _ in pairs], "heads", [("q", 1, 1), ("v", 2, 0), "logits"], METRIC,
                           source_positions=[m for _, _, m in pairs], sender_positions=[[1, 2, 5], [1, 3]])  # fmt: skip
    for pair, (clean, corrupt, source_of) in enumerate(pairs):
        slow = slow_grid(w, clean, corrupt, [[head(layer, h)] for layer in range(3) for h in range(w.heads)],
                         [[reads("q", 1, 1)], [reads("v", 2, 0)], [Node("logits")]], sender_positions=[[1, 2, 5], [1, 3]][pair],
                         receiver_positions=range(len(clean)), source_of=source_of)  # fmt: skip
        assert farthest(got.per_pair[pair], slow) <= LIMIT
    assert np.array_equal(got.values, got.per_pair.mean(0), equal_nan=True)


def test_random_paths(client, exact):
    """Random prompts, sets, positions and options against the slow way."""
    rng = np.random.default_rng(20261126)
    for round_ in range(60):
        name = str(rng.choice(["gqa-tied-sharded", "two", "deep", "rope-bands-new", "two-unscaled-silu", "mqa-head20"]))
        w = exact(name)
        length = int(rng.integers(1, 16))
        clean = [int(i) for i in rng.integers(0, 300, length)]
        corrupt = [i if rng.random() < 0.6 else int(rng.integers(0, 300)) for i in clean]
        places = [sorted({int(p) for p in rng.integers(0, length, 4)}) for _ in range(2)]
        # "logits" alone, sets of up to three of the rest.
        sender_sets = [[all_senders(w)[i] for i in rng.choice(len(all_senders(w)), int(rng.integers(1, 4)), replace=False)] for _ in range(3)]
        rest = all_receivers(w)[1:]
        receiver_sets = [[Node("logits")], *([rest[i] for i in rng.choice(len(rest), int(rng.integers(1, 4)), replace=False)] for _ in range(3))]
        frozen = [bool(rng.random() < 0.5) for _ in range(2)]

        def given(sets, at):
            def node(n: Node):
                return "logits" if n.site == "logits" else fs.at(n.site, heads=n.heads or (), positions=at)

            return {str(i): [node(n) for n in nodes] for i, nodes in enumerate(sets)}

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fs.FluoroscopeWarning)  # both prompts may be the same
            got = client.model(name).path_patch(clean, corrupt, given(sender_sets, places[0]), given(receiver_sets, places[1]), METRIC,
                                                mlps="freeze" if frozen[0] else "recompute", norms="freeze" if frozen[1] else "recompute")  # fmt: skip
        slow = slow_grid(w, clean, corrupt, sender_sets, receiver_sets, sender_positions=places[0], receiver_positions=places[1],
                         source_of=range(length), mlps=frozen[0], norms=frozen[1])  # fmt: skip
        worst = farthest(got.values, slow)
        assert worst <= LIMIT, (round_, name, sender_sets, receiver_sets, frozen, worst)


def test_many_senders_come_in_several_pieces(client, exact):
    """More cells than a piece has rows: the same numbers as in a small request."""
    model = client.model("deep")
    rng = np.random.default_rng(5)
    clean = [[int(i) for i in rng.integers(0, 300, 8)] for _ in range(12)]
    corrupt = [[int(i) for i in rng.integers(0, 300, 8)] for _ in range(12)]
    got = model.path_patch(clean, corrupt, ["heads", "mlps"], ["q", "k", "v", "mlps", "logits"], METRIC)
    assert got.estimate.cells == 12 * 45 * (9 * (4 + 2 + 2 + 1) + 1)
    alone = model.path_patch(clean[11], corrupt[11], [(0, 0), (3, 2)], [("q", 8, 3), "logits"], METRIC)
    receivers, senders = got.axes[0].labels, got.axes[1].labels
    for i, j in itertools.product(range(2), range(2)):
        place = receivers.index(alone.axes[0].labels[i]), senders.index(alone.axes[1].labels[j])
        assert got.per_pair[11][place] == pytest.approx(alone.values[i, j], abs=LIMIT, nan_ok=True)


def test_the_estimate_and_what_the_result_says(client):
    model = client.model("gqa-tied-sharded")
    estimate = model.estimate_path_patch(CLEAN, CORRUPT, "heads", ["logits", "q"], METRIC)
    got = model.path_patch(CLEAN, CORRUPT, "heads", ["logits", "q"], METRIC)
    assert estimate.cells == 12 * 13 == got.values.size and estimate == got.estimate
    assert 0 < got.timing.peak_bytes <= estimate.peak_bytes <= estimate.budget_bytes
    # Layer 0's heads read before anybody sends, layer 1's hear layer 0, layer 2's both.
    assert estimate.filled_cells == 12 * 12 - (4 * 4 + 4 * 8)
    assert "corrupt run" in got.convention and "other heads frozen to the clean run" in got.convention and "MLPs recomputed" in got.convention
    heads = model.path_patch(CLEAN, CORRUPT, "heads", "logits", METRIC).by_head()
    assert [axis.name for axis in heads.axes] == ["layer", "head"] and heads.values.shape == (3, 4)
    assert got.by_head().values.shape == (13, 3, 4)
    second = fs.metrics.logprob(RIGHT)
    several = model.path_patch(CLEAN, CORRUPT, "heads", "logits", [METRIC, second])
    assert np.array_equal(several[second].by_head().values.ravel(), several[second].values.ravel())
    assert several[second].by_head().metric == several[second].metric != several.metric


# Causal tracing.


@pytest.mark.parametrize("name", MODELS)
def test_causal_tracing(client, exact, name):
    w, model = exact(name), client.model(name)
    layers, subject, seeds = len(w.layers), [2, 3], 3
    got = model.causal_trace(CLEAN, subject, METRIC, noise=0.7, seeds=seeds, seed=5, window=2)
    clean = trace(w, CLEAN)
    noisy = [noisy_embedding(clean.sites["hook_embed"], subject, 0.7, lambda p, unit, row=row: normal(5, row, 0, p, 0, unit)) for row in range(seeds)]
    corrupted = [difference(trace(w, CLEAN, lambda n, v, e=embed: e if n == "hook_embed" else v).logits[-1]) for embed in noisy]
    assert got.corrupted == pytest.approx(np.mean(corrupted), abs=LIMIT) and got.clean == pytest.approx(difference(clean.logits[-1]), abs=LIMIT)
    assert np.std(corrupted) > 1e-3  # each seed is another sample
    for site, before, after in [("resid_post", 0, 1), ("mlp_out", 1, 1), ("attn_out", 1, 1)]:
        slow = np.array([[[
            slow_trace(w, CLEAN, embed, clean, f"hook_{site}", [at for at in range(layer - before, layer + after) if 0 <= at < layers], p, difference)
            for p in range(len(CLEAN))] for layer in range(layers)] for embed in noisy])  # fmt: skip
        assert np.abs(got[site].per_pair - slow).max() <= LIMIT
        assert np.array_equal(got[site].values, got[site].per_pair.mean(0))
    # In front of the subject nothing was corrupted.
    assert (got.resid_post.values[:, :2] == got.resid_post.base.mean()).all()


def test_noise_on_embeddings_in_both_directions(client, exact):
    """The corrupt run is the base of a denoising sweep and the source of a noising one, also where its tokens differ."""
    w, model = exact("two"), client.model("two")
    edit = fs.noise(fs.at("hook_embed", positions=[1]), 0.5, seed=2)
    embed = noisy_embedding(trace(w, CORRUPT).sites["hook_embed"], [1], 0.5, lambda p, unit: normal(2, 0, 0, p, 0, unit))

    def corruption(name, value):
        return embed if name == "hook_embed" else value

    corrupt, clean = trace(w, CORRUPT, corruption), trace(w, CLEAN)
    for direction, ids, base, source in [("denoise", CORRUPT, corruption, clean), ("noise", CLEAN, lambda _, v: v, corrupt)]:
        got = model.sweep(CLEAN, CORRUPT, "resid_pre", ("layer", "position"), METRIC, direction=direction, corrupt_with=[edit])

        def cell(layer, p, base=base, source=source, ids=ids):
            def put(name, value):
                value = base(name, value)
                if name != f"blocks.{layer}.hook_resid_pre":
                    return value
                return torch.cat([value[:p], source.sites[name][p : p + 1], value[p + 1 :]])

            return difference(trace(w, ids, put).logits[-1])

        slow = np.array([[cell(layer, p) for p in range(len(CLEAN))] for layer in range(3)])
        assert np.abs(got.values - slow).max() <= LIMIT
        assert (got.values[:, 0] == got.base[0]).all() and (np.abs(got.values[:, 1] - got.base[0]) > 1e-6).all()
