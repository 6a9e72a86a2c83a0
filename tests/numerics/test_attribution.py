"""Attribution scores equal the same sums made with PyTorch's autograd over the slow reference, in float64, within 1e-4 of the largest score."""

from __future__ import annotations

import itertools

import fluoroscope as fs
import numpy as np
import pytest
import scipy.stats
import torch

from .chosen import choose
from .reference import Weights, trace
from .slow_edits import by_position

RELATIVE = 1e-4
BASE = [0, 17, 42, 9, 42, 8, 133, 299]
SOURCE = [0, 17, 42, 250, 41, 7, 133, 12]
RIGHT, WRONG = [5, 11], [17]
MODELS = ["gqa-tied-sharded", "two", "biases", "two-untied-head20"]
SITES = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_q", "attn.hook_k", "attn.hook_v",
         "attn.hook_z", "attn.hook_result", "attn.hook_pattern", "attn.hook_attn_scores", "hook_mlp_in", "mlp.hook_pre", "mlp.hook_post", "ln1.hook_scale",
         "ln2.hook_normalized"]  # fmt: skip
METRIC = fs.metrics.logit_diff(RIGHT, WRONG)


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1][RIGHT].mean() - logits[-1][WRONG].mean()


def gradients(w: Weights, ids: list[int], metric, begin: torch.Tensor | None = None, put: dict | None = None) -> tuple[dict, dict, float]:
    """Values and gradients at every hook point, and the metric. `begin`: the first residual instead of the embedding. `put`: values by name that go on instead
    of the run's own."""
    put = put or {}

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        if name in put:
            value = put[name].detach().clone().requires_grad_()
        elif name == "blocks.0.hook_resid_pre":
            value = (value if begin is None else begin).detach().clone().requires_grad_()
        elif name.startswith("blocks") and not name.endswith(("_input", "attn_in")):  # those are copies of the residual that nothing is made from
            value = value * 1  # a tensor of its own, which what follows is made from
        if value.requires_grad:
            value.retain_grad()
        return value

    with torch.enable_grad():
        out = trace.__wrapped__(w, ids, keep)
        value = metric(out.logits)
        value.backward()
    grads = {name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in out.sites.items() if name.startswith("blocks")}
    return {name: v.detach() for name, v in out.sites.items()}, grads, float(value.detach())


def products(w: Weights, site: str, change: dict, grads: list[dict]) -> list[np.ndarray]:
    """By layer: change * mean gradient as [position, head, unit]."""
    out = []
    for layer in range(len(w.layers)):
        name = f"blocks.{layer}.{site}"
        mean = sum(by_position(name, g[name]) for g in grads) / len(grads)
        out.append(torch.nan_to_num(by_position(name, change[name]) * mean, 0, 0, 0).numpy())
    return out


def assert_scores(got: np.ndarray, expected: np.ndarray, message: str) -> None:
    expected = np.reshape(expected, got.shape)
    assert np.abs(expected).max() > 0, message
    assert np.abs(got - expected).max() <= RELATIVE * np.abs(expected).max(), message


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", MODELS)
def test_attribution_patching(client, exact, name, site):
    w = exact(name)
    base, grads, value = gradients(w, BASE, difference)
    source = trace(w, SOURCE)
    change = {at: source.sites[at] - base[at] for at in grads}
    by_layer = products(w, site, change, [grads])
    got = client.model(name).attribute(SOURCE, BASE, site, ("layer", "position"), METRIC)
    assert got.base == pytest.approx(value, abs=1e-5)
    assert got.source == pytest.approx(float(difference(source.logits)), abs=1e-5)
    assert "attribution patching" in got.convention
    assert_scores(got.scores, np.array([p.sum((1, 2)) for p in by_layer]), f"{name} {site}")


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_nodes_of_every_shape(client, exact, name):
    w, model = exact(name), client.model(name)
    base, grads, _ = gradients(w, BASE, difference)
    source = trace(w, SOURCE)
    change = {at: source.sites[at] - base[at] for at in grads}
    z, pattern = products(w, "attn.hook_z", change, [grads]), products(w, "attn.hook_pattern", change, [grads])
    post = products(w, "mlp.hook_post", change, [grads])
    got = model.attribute(SOURCE, BASE, "z", ("layer", "head", "position"), METRIC)
    assert_scores(got.scores, np.array([p.sum(2).T for p in z]), "z")
    got = model.attribute(SOURCE, BASE, "pattern", ("layer", "head", "position", "source"), METRIC)
    assert_scores(got.scores, np.array([p.transpose(1, 0, 2) for p in pattern]), "pattern")
    got = model.attribute(SOURCE, BASE, "mlp.hook_post", ("layer", "unit", "position"), METRIC, unit_block=16)
    count = post[0].shape[2]
    blocks = [slice(at, at + 16) for at in range(0, count, 16)]
    assert_scores(got.scores, np.array([[p[:, 0, block].sum(1) for block in blocks] for p in post]), "neurons")
    # Several sites, a window of layers, groups of positions, and a map with a hole.
    groups = {"front": [0, 1, 3], "end": "last"}
    mapped = [0, 1, 2, 3, -1, 5, 7, 6]
    got = model.attribute(SOURCE, BASE, ("resid_pre", "mlp_out"), ("layer", "position"), METRIC, groups=groups, window=2, source_positions=mapped)
    expected = []
    for site in ("hook_resid_pre", "hook_mlp_out"):
        moved = {}
        for layer in range(len(w.layers)):
            at = f"blocks.{layer}.{site}"
            moved[at] = source.sites[at][mapped] - base[at]
            moved[at][4] = 0
        by_layer = products(w, site, moved, [grads])
        for layer, places in itertools.product(range(len(w.layers)), ([0, 1, 3], [7])):
            expected.append(sum(by_layer[at][places].sum() for at in range(layer, min(layer + 2, len(w.layers)))))
    assert_scores(got.scores, np.array(expected), "windows")


@pytest.mark.parametrize("name", MODELS)
def test_other_methods(client, exact, name):
    w, model = exact(name), client.model(name)
    base, grads, _ = gradients(w, BASE, difference)
    source = trace(w, SOURCE)
    change = {at: source.sites[at] - base[at] for at in grads}
    begin, end = base["blocks.0.hook_resid_pre"], source.sites["blocks.0.hook_resid_pre"]
    path = [gradients(w, BASE, difference, begin + (i + 0.5) / 5 * (end - begin))[1] for i in range(5)]
    for site in ("hook_resid_mid", "attn.hook_z", "mlp.hook_post"):
        got = model.attribute(SOURCE, BASE, site, ("layer", "position"), METRIC, method="ig", steps=5)
        assert_scores(got.scores, np.array([p.sum((1, 2)) for p in products(w, site, change, path)]), f"{name} {site} ig")
        by_layer = np.array([p.sum((1, 2)) for p in products(w, site, base, [grads])])
        assert_scores(model.attribute(SOURCE, BASE, site, ("layer", "position"), METRIC, method="grad_x_input").scores, by_layer, f"{name} {site} gxi")
        assert_scores(model.attribute(SOURCE, BASE, site, ("layer", "position"), METRIC, kind="zero").scores, -by_layer, f"{name} {site} zero")
    # Over the first residual integrated gradients are complete: the scores add up to the whole difference.
    whole = model.attribute(SOURCE, BASE, "resid_pre", ("position",), METRIC, method="ig", steps=64, layers=[0])
    assert whole.scores.sum() == pytest.approx(whole.source[0] - whole.base[0], abs=2e-3)


def on_the_way(w: Weights, site: str, base: dict, change: dict, steps: int, ids: list[int] = BASE, measure=difference) -> list[np.ndarray]:
    """By layer as `products`: change * the mean gradient over runs in which this site in this layer is on the way to base + change."""
    out = []
    for layer in range(len(w.layers)):
        name = f"blocks.{layer}.{site}"
        runs = []
        for i in range(steps):
            value = base[name] + torch.nan_to_num((i + 0.5) / steps * change[name], 0, 0, 0)
            runs.append(gradients(w, ids, measure, put={name: value})[1])
        out.append(products(w, site, change, runs)[layer])
    return out


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["gqa-tied-sharded", "biases"])
def test_integrated_gradients_over_activations(client, exact, name, site):
    w, model = exact(name), client.model(name)
    base, source = trace(w, BASE).sites, trace(w, SOURCE).sites
    change = {at: source[at] - base[at] for at in base if at.startswith("blocks")}
    expected = np.array([p.sum((1, 2)) for p in on_the_way(w, site, base, change, 3)])
    got = model.attribute(SOURCE, BASE, site, ("layer", "position"), METRIC, method="ig_activations", steps=3)
    assert "over the activations" in got.convention
    assert_scores(got.scores, expected, f"{name} {site}")


def test_activations_on_the_way_of_every_shape(client, exact):
    name = "gqa-tied-sharded"
    w, model = exact(name), client.model(name)
    base, source = trace(w, BASE).sites, trace(w, SOURCE).sites
    zeroed = {at: -base[at] for at in base if at.startswith("blocks")}
    options = {"method": "ig_activations", "steps": 3}
    by_layer = on_the_way(w, "attn.hook_z", base, zeroed, 3)
    got = model.attribute(SOURCE, BASE, "z", ("layer", "head", "position"), METRIC, kind="zero", **options)
    assert_scores(got.scores, np.array([p.sum(2).T for p in by_layer]), "zero")
    one = model.attribute(SOURCE, BASE, "z", ("head", "position"), METRIC, kind="zero", layers=[1], **options)
    assert_scores(one.scores, by_layer[1].sum(2).T, "one layer")
    # Prompts of unequal length, two sites, two metrics, two pairs, and cells of two layers.
    long, second = [*SOURCE, 77], fs.metrics.logprob(RIGHT)
    mapped = [0, 1, 2, 8, -1, 5, 7, 6]
    measures = {METRIC: difference, second: lambda logits: logits[-1].softmax(-1)[RIGHT].sum().log()}
    got = model.attribute([long, SOURCE], [BASE, BASE[::-1]], ("resid_mid", "mlp_out"), ("layer", "position"), list(measures), window=2, window_before=1,
                          source_positions=[mapped, list(range(8))], **options)  # fmt: skip
    for metric, measure in measures.items():
        scores = got[metric].per_pair - got[metric].base[:, None, None, None]
        for pair, (clean, corrupt, places) in enumerate([(long, BASE, mapped), (SOURCE, BASE[::-1], list(range(8)))]):
            base, source = trace(w, corrupt).sites, trace(w, clean).sites
            expected = []
            for site in ("hook_resid_mid", "hook_mlp_out"):
                names = [f"blocks.{layer}.{site}" for layer in range(len(w.layers))]
                change = {at: source[at][places] - base[at] for at in names}
                if places is mapped:
                    for at in names:
                        change[at][4] = 0
                by_layer = [p.sum((1, 2)) for p in on_the_way(w, site, base, change, 3, corrupt, measure)]
                expected.append([sum(by_layer[max(layer - 1, 0) : layer + 1]) for layer in range(len(w.layers))])
            assert_scores(scores[pair], np.array(expected), f"{metric} pair {pair}")


@pytest.mark.parametrize("kind", ["patch", "zero"])
def test_activations_on_the_way_add_up(client, kind):
    """The scores of a site in a layer add up to what changing all of it does."""
    model = client.model("gqa-tied-sharded")
    # On its way to 0 the residual itself meets the norm's singularity at its very end, which no sum over steps sees; what is near it needs more of them.
    for site in ("z", "mlp_post") if kind == "zero" else ("resid_mid", "z", "mlp_post"):
        got = model.attribute(SOURCE, BASE, site, ("layer",), METRIC, kind=kind, method="ig_activations", steps=256 if kind == "zero" else 64)
        exact = model.sweep(SOURCE, BASE, site, ("layer",), METRIC, kind=kind)
        assert np.abs(got.scores - exact.scores).max() <= 1e-3 * np.abs(exact.scores).max()


def test_every_differentiable_metric_and_several_pairs(client, exact):
    name = "gqa-tied-sharded"
    w, model = exact(name), client.model(name)
    metrics = {
        fs.metrics.logits(RIGHT): lambda logits: logits[-1][RIGHT].mean(),
        fs.metrics.prob(RIGHT): lambda logits: logits[-1].softmax(-1)[RIGHT].sum(),
        fs.metrics.logprob(RIGHT): lambda logits: logits[-1].softmax(-1)[RIGHT].sum().log(),
        fs.metrics.cross_entropy(11): lambda logits: -logits[-1].log_softmax(-1)[11],
        fs.metrics.logit_diff(RIGHT, WRONG, positions=4, name="inside"): lambda logits: logits[4][RIGHT].mean() - logits[4][WRONG].mean(),
    }
    pairs = [(SOURCE, BASE), (BASE[::-1], SOURCE)]
    got = model.attribute([a for a, _ in pairs], [b for _, b in pairs], "attn_out", ("layer", "position"), list(metrics))
    for metric, slow in metrics.items():
        scores = got[metric].per_pair - got[metric].base[:, None, None]
        for pair, (clean, corrupt) in enumerate(pairs):
            base, grads, value = gradients(w, corrupt, slow)
            source = trace(w, clean)
            change = {at: source.sites[at] - base[at] for at in grads}
            expected = np.array([p.sum((1, 2)) for p in products(w, "hook_attn_out", change, [grads])])
            assert got[metric].base[pair] == pytest.approx(value, abs=1e-5)
            assert_scores(scores[pair], expected, f"{metric} pair {pair}")
    with pytest.raises(fs.InvalidArgumentError, match="rank.*no gradient"):
        model.attribute(SOURCE, BASE, "attn_out", ("layer",), fs.metrics.rank(3))
    with pytest.raises(fs.InvalidArgumentError, match="same number of tokens"):
        model.attribute(SOURCE, BASE[:-1], "attn_out", ("layer",), METRIC, method="ig", source_positions=[0] * 7)
    with pytest.raises(fs.InvalidArgumentError, match="kind"):
        model.attribute(SOURCE, BASE, "attn_out", ("layer",), METRIC, kind="mean")


def pattern_change(w: Weights, sites: dict, layer: int, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """[heads, queries, keys]: the pattern made from these (rotated) queries and keys minus the run's own."""
    heads, kv = q.shape[1], k.shape[1]
    keys = k.repeat_interleave(heads // kv, 1)
    scores = torch.einsum("qhd,khd->hqk", q, keys) / q.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) - sites[f"blocks.{layer}.attn.hook_pattern"]


def slow_qk(w: Weights, side: str, base: dict, source: dict | None, grads: dict) -> np.ndarray:
    """[layer, position, head]: one query or key at a time is changed, and its pattern made again."""
    rot = "rot_" if "blocks.0.attn.hook_rot_q" in base else ""
    out = []
    for layer in range(len(w.layers)):
        at = f"blocks.{layer}.attn.hook_{rot}"
        q, k, g = base[at + "q"], base[at + "k"], grads[f"blocks.{layer}.attn.hook_pattern"]
        own = q if side == "q" else k
        new = torch.zeros_like(own) if source is None else source[at + side]
        effects = torch.zeros(own.shape[:2], dtype=own.dtype)
        for place in itertools.product(*map(range, own.shape[:2])):
            changed = own.clone()
            changed[place] = new[place]
            pair = (changed, k) if side == "q" else (q, changed)
            effects[place] = (pattern_change(w, base, layer, *pair) * g).sum()
        out.append(effects.numpy())
    return np.array(out)


def gradients_without(w: Weights, layer: int) -> dict:
    """As `gradients` of `difference` at the base run, with what this layer adds to the residual held constant."""

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        if name == "blocks.0.hook_resid_pre":
            value = value.detach().clone().requires_grad_()
        elif name in (f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"):
            value = value.detach()
        elif name.startswith("blocks") and not name.endswith(("_input", "attn_in")):
            value = value * 1
        if value.requires_grad:
            value.retain_grad()
        return value

    with torch.enable_grad():
        out = trace.__wrapped__(w, BASE, keep)
        difference(out.logits).backward()
    return {name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in out.sites.items() if name.startswith("blocks")}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", ["q", "k"])
def test_the_qk_fix(client, exact, name, side):
    w, model = exact(name), client.model(name)
    base, grads, _ = gradients(w, BASE, difference)
    source = trace(w, SOURCE).sites
    expected = slow_qk(w, side, base, source, grads)
    got = model.attribute(SOURCE, BASE, side, ("layer", "position", "head"), METRIC, method="qk_fix")
    assert "QK fix" in got.convention
    assert_scores(got.scores, expected, f"{name} {side}")
    if "blocks.0.attn.hook_rot_q" in base:
        turned = model.attribute(SOURCE, BASE, f"attn.hook_rot_{side}", ("layer", "position", "head"), METRIC, method="qk_fix")
        assert_scores(turned.scores, expected, f"{name} rot_{side}")
    zero = model.attribute(SOURCE, BASE, side, ("layer", "position", "head"), METRIC, method="qk_fix", kind="zero")
    assert_scores(zero.scores, slow_qk(w, side, base, None, grads), f"{name} {side} zero")
    # Other sites have no fix, and a unit axis has no meaning here.
    plain = model.attribute(SOURCE, BASE, "z", ("layer", "head"), METRIC)
    assert np.array_equal(model.attribute(SOURCE, BASE, "z", ("layer", "head"), METRIC, method="qk_fix").scores, plain.scores)
    with pytest.raises(fs.InvalidArgumentError, match="whole queries and keys"):
        model.attribute(SOURCE, BASE, side, ("layer", "unit"), METRIC, method="qk_fix", unit_block=4)


@pytest.mark.parametrize("name", MODELS)
def test_atp_star(client, exact, name):
    w, model = exact(name), client.model(name)
    base, _, _ = gradients(w, BASE, difference)
    source = trace(w, SOURCE).sites
    dropped = [gradients_without(w, layer) for layer in range(len(w.layers))]
    change = {at: source[at] - base[at] for at in dropped[0]}
    others = len(w.layers) - 1
    for site in ("hook_resid_pre", "hook_mlp_out", "hook_resid_mid"):
        by_drop = np.array([[p.sum((1, 2)) for p in products(w, site, change, [g])] for g in dropped])
        got = model.attribute(SOURCE, BASE, site, ("layer", "position"), METRIC, method="atp*")
        assert_scores(got.scores, np.abs(by_drop).sum(0) / others, f"{name} {site}")
    by_drop = np.array([[p.sum(2) for p in products(w, "attn.hook_z", change, [g])] for g in dropped])
    got = model.attribute(SOURCE, BASE, "z", ("layer", "position", "head"), [METRIC, fs.metrics.logits(3)], method="atp*")
    assert_scores(got.scores, np.abs(by_drop).sum(0) / others, f"{name} z")
    keys = np.array([slow_qk(w, "k", base, source, g) for g in dropped])
    got = model.attribute(SOURCE, BASE, "k", ("layer", "position", "head"), METRIC, method="atp*")
    assert "AtP*" in got.convention
    assert_scores(got.scores, np.abs(keys).sum(0) / others, f"{name} k")


@pytest.mark.parametrize("method", ["atp", "atp*"])
def test_verify(client, method):
    model = client.model("gqa-tied-sharded")
    second = fs.metrics.logprob(RIGHT)
    pairs = [(SOURCE, BASE), (SOURCE[::-1], BASE[::-1])]
    clean, corrupt = [a for a, _ in pairs], [b for _, b in pairs]
    over = ("layer", "head", "position")
    got = model.attribute(clean, corrupt, "z", over, [METRIC, second], method=method, verify=(6, 9), seed=3)
    sweep = model.sweep(clean, corrupt, "z", over, [METRIC, second])
    for metric in (METRIC, second):
        estimates, exact, check = got[metric].scores.ravel(), sweep[metric].scores.ravel(), got[metric].check
        chosen = check.cells
        assert list(chosen) == choose([got[m].scores for m in (METRIC, second)], 6, 9, 3)
        assert set(np.argsort(-np.abs(estimates), kind="stable")[:6]) <= set(chosen)
        assert 6 + 9 <= len(chosen) <= 2 * 6 + 9
        assert np.isnan(check.exact.ravel()[np.setdiff1d(np.arange(exact.size), chosen)]).all()
        assert np.abs(check.exact.ravel()[chosen] - exact[chosen]).max() < 1e-5
        signed = np.abs(check.exact.ravel()[chosen]) if method == "atp*" else check.exact.ravel()[chosen]
        assert check.spearman == pytest.approx(scipy.stats.spearmanr(estimates[chosen], signed).statistic, abs=1e-9)
        truly = chosen[np.argsort(-np.abs(check.exact.ravel()[chosen]), kind="stable")[:6]]
        best = chosen[np.argsort(-np.abs(estimates[chosen]), kind="stable")[:6]]
        assert check.precision == pytest.approx(len(set(truly) & set(best)) / 6)
        assert "Spearman" in repr(got[metric])
    again = model.attribute(clean, corrupt, "z", over, [METRIC, second], method=method, verify=(6, 9), seed=4)
    assert set(again.check.cells) != set(got.check.cells)
    # More than there are: all of them.
    every = model.attribute(SOURCE, BASE, "resid_pre", ("layer",), METRIC, method=method, verify=50)
    assert list(every.check.cells) == list(range(every.scores.size))
    assert every.check.top == every.scores.size and every.check.precision == 1
    assert model.attribute(SOURCE, BASE, "resid_pre", ("layer",), METRIC).check is None
    with pytest.raises(fs.InvalidArgumentError, match="verify.top is 5000; at most 4096"):
        model.attribute(SOURCE, BASE, "resid_pre", ("layer",), METRIC, verify=5000)
