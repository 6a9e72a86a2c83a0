"""Attribution scores equal the same sums made with PyTorch's autograd over the slow reference, in float64, within 1e-4 of the largest score."""

from __future__ import annotations

import itertools

import fluoroscope as fs
import numpy as np
import pytest
import torch

from .reference import Weights, trace, weights_of
from .slow_edits import by_position

RELATIVE = 1e-4
BASE = [0, 17, 42, 9, 42, 8, 133, 299]
SOURCE = [0, 17, 42, 250, 41, 7, 133, 12]
RIGHT, WRONG = [5, 11], [17]
MODELS = ["gqa-tied-sharded", "two", "biases", "two-untied-head20"]
SITES = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_q", "attn.hook_k", "attn.hook_v",
         "attn.hook_z", "attn.hook_result", "attn.hook_pattern", "attn.hook_attn_scores", "mlp.hook_pre", "mlp.hook_post", "ln1.hook_scale",
         "ln2.hook_normalized"]  # fmt: skip
METRIC = fs.metrics.logit_diff(RIGHT, WRONG)


@pytest.fixture(scope="module")
def client(server):
    with fs.connect(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def exact(checkpoints):
    kept: dict[str, Weights] = {}

    def of(name: str) -> Weights:
        if name not in kept:
            kept[name] = weights_of(checkpoints[name].model, torch.float64)
        return kept[name]

    return of


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1][RIGHT].mean() - logits[-1][WRONG].mean()


def gradients(w: Weights, ids: list[int], metric, begin: torch.Tensor | None = None) -> tuple[dict, dict, float]:
    """Values and gradients at every hook point, and the metric. `begin`: the first residual instead of the embedding."""

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        if name == "blocks.0.hook_resid_pre":
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
