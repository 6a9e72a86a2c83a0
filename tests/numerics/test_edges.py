"""Edge attribution equals the same sums made with PyTorch's autograd, where every receiver reads a copy of the residual of its own, in float64, within 1e-4."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from .chosen import choose
from .reference import Layer, Norm, Weights, add, frequencies, rotate, trace

RELATIVE = 1e-4
CLEAN = [0, 17, 42, 9, 42, 8, 133, 299]
CORRUPT = [0, 17, 42, 250, 41, 7, 133, 12]
RIGHT, WRONG = [5, 11], [17]
METRIC = fs.metrics.logit_diff(RIGHT, WRONG)
MODELS = ["mha", "gqa-tied-sharded", "biases", "two", "two-untied-head20"]
EVERYWHERE = list(range(len(CLEAN)))


def difference(logits: Tensor) -> Tensor:
    return logits[-1][RIGHT].mean() - logits[-1][WRONG].mean()


def gradients(w: Weights, begin: Tensor, measure=difference, put: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The gradient in what each receiver reads, by its label. `begin` [pos, d_model]: the first residual. Each receiver has a zero of its own added to what it
    reads; the gradient in that zero is the gradient through this receiver alone. `put`: what "attn N" or "mlp N" adds to the residual instead of its own."""
    put = put or {}
    zeros: dict[str, Tensor] = {}

    def read(label: str, residual: Tensor) -> Tensor:
        zeros[label] = torch.zeros_like(residual, requires_grad=True)
        return residual + zeros[label]

    def normalized(x: Tensor, n: Norm) -> Tensor:
        if n.bias is not None:
            x = x - x.mean(-1, keepdim=True)
        return add(x / (x.pow(2).mean(-1, keepdim=True) + n.eps).sqrt() * n.weight, n.bias)

    def bias(b: Tensor | None, head: int) -> Tensor | None:
        return None if b is None else b[head * w.d_head : (head + 1) * w.d_head]

    def head_of(letter: str, number: int, head: int, residual: Tensor, layer: Layer) -> Tensor:
        weight, b = {"q": (layer.w_q, layer.b_q), "k": (layer.w_k, layer.b_k), "v": (layer.w_v, layer.b_v)}[letter]
        x = normalized(read(f"{letter} {number}.{head}", residual), layer.ln1)
        out = add(x @ weight[:, head * w.d_head : (head + 1) * w.d_head], bias(b, head))
        if w.rope is not None and letter != "v":
            out = rotate(out[:, None], frequencies(w.rope, w.d_head))[:, 0]
        return out

    hidden = torch.ones(len(begin), len(begin), dtype=torch.bool).triu(1)
    with torch.enable_grad():
        residual = begin
        for number, layer in enumerate(w.layers):
            keys = [head_of("k", number, h, residual, layer) for h in range(w.kv_heads)]
            values = [head_of("v", number, h, residual, layer) for h in range(w.kv_heads)]
            attended = residual if layer.b_o is None else residual + layer.b_o
            for h in range(w.heads):
                own = h // (w.heads // w.kv_heads)
                scores = head_of("q", number, h, residual, layer) @ keys[own].T * layer.score_scale
                pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
                attended = attended + pattern @ values[own] @ layer.w_o[h * w.d_head : (h + 1) * w.d_head]
            if f"attn {number}" in put:
                attended = residual + put[f"attn {number}"]
            residual = attended
            x = normalized(read(f"mlp {number}", residual), layer.ln2)
            post = w.activation(add(x @ layer.w_in, layer.b_in)) if layer.w_gate is None else None
            if post is None:
                post = w.activation(add(x @ layer.w_gate, layer.b_gate)) * add(x @ layer.w_in, layer.b_in)
            residual = residual + put.get(f"mlp {number}", add(post @ layer.w_out, layer.b_out))
        measure(normalized(read("logits", residual), w.ln_final) @ w.unembed).backward()
    return {label: zero.grad for label, zero in zeros.items()}


def senders_of(w: Weights, sites: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each sender adds to the residual, by its label."""
    out = {}
    for number, layer in enumerate(w.layers):
        z = sites[f"blocks.{number}.attn.hook_z"]
        for h in range(w.heads):
            out[f"{number}.{h}"] = z[:, h] @ layer.w_o[h * w.d_head : (h + 1) * w.d_head]
    for number in range(len(w.layers)):
        out[f"mlp {number}"] = sites[f"blocks.{number}.hook_mlp_out"]
    out["embed"] = sites["blocks.0.hook_resid_pre"]
    return out


def in_front(sender: str, receiver: str) -> bool:
    """Stages: the embedding, then attention and MLP of each layer in turn, then the logits."""

    def stage(label: str) -> float:
        if label in ("embed", "logits"):
            return {"embed": -1.0, "logits": 1e9}[label]
        number = int(label.split(" ")[-1].split(".")[0])
        return number + (0.5 if label.startswith("mlp") else 0.0)

    return stage(sender) < stage(receiver)


def slow_edges(w: Weights, base: dict, source: dict, grads: dict[str, Tensor], labels: tuple[list[str], list[str]], positions=EVERYWHERE) -> np.ndarray:
    before, after = senders_of(w, base), senders_of(w, source)
    receivers, senders = labels
    out = np.full((len(receivers), len(senders)), np.nan)
    for i, receiver in enumerate(receivers):
        for j, sender in enumerate(senders):
            if in_front(sender, receiver):
                out[i, j] = ((after[sender] - before[sender]) * grads[receiver])[positions].sum()
    return out


def together(edges: np.ndarray) -> float:
    """Between two sets: the sum of the edges that there are."""
    return float("nan") if np.isnan(edges).all() else float(np.nansum(edges))


def assert_scores(got: np.ndarray, expected: np.ndarray) -> None:
    """NaN, and only there, where the model has no such edge."""
    assert np.nanmax(np.abs(expected)) > 0
    assert (np.isnan(got) == np.isnan(expected)).all()
    assert np.nanmax(np.abs(got - expected)) <= RELATIVE * np.nanmax(np.abs(expected))


@pytest.mark.parametrize("name", MODELS)
def test_eap_over_the_whole_graph(client, exact, name):
    w, model = exact(name), client.model(name)
    base, source = trace(w, CLEAN), trace(w, CORRUPT)
    got = model.attribute_edges(CLEAN, CORRUPT, metric=METRIC)
    labels = (list(got.axes[0].labels), list(got.axes[1].labels))
    assert (got.axes[0].name, got.axes[1].name) == ("receiver", "sender")
    assert len(labels[0]) == len(w.layers) * (w.heads + 2 * w.kv_heads + 1) + 1
    assert len(labels[1]) == len(w.layers) * (w.heads + 1) + 1
    grads = gradients(w, base.sites["blocks.0.hook_resid_pre"])
    assert set(labels[0]) == set(grads)
    assert_scores(got.scores, slow_edges(w, base.sites, source.sites, grads, labels))
    assert got.base == pytest.approx(float(difference(base.logits)), abs=1e-5)
    assert got.source == pytest.approx(float(difference(source.logits)), abs=1e-5)
    assert "EAP" in got.convention and "direct edges" in got.convention
    # Denoising swaps the runs.
    back = model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, direction="denoise")
    grads = gradients(w, source.sites["blocks.0.hook_resid_pre"])
    assert_scores(back.scores, slow_edges(w, source.sites, base.sites, grads, labels))


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_eap_ig(client, exact, name):
    w, model = exact(name), client.model(name)
    base, source = trace(w, CLEAN).sites, trace(w, CORRUPT).sites
    begin, end = base["blocks.0.hook_resid_pre"], source["blocks.0.hook_resid_pre"]
    path = [gradients(w, begin + (i + 0.5) / 5 * (end - begin)) for i in range(5)]
    mean = {label: sum(grads[label] for grads in path) / 5 for label in path[0]}
    got = model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, method="eap_ig", steps=5)
    labels = (list(got.axes[0].labels), list(got.axes[1].labels))
    assert "EAP-IG" in got.convention
    assert_scores(got.scores, slow_edges(w, base, source, mean, labels))


def moved(source: Tensor, base: Tensor, places: list[int]) -> Tensor:
    """source - base, where position p of the base prompt takes the source's places[p]; 0 where that is -1."""
    change = source[places] - base
    change[[p for p, place in enumerate(places) if place < 0]] = 0
    return change


def slow_activations(w: Weights, base: dict, source: dict, steps: int, labels: tuple[list[str], list[str]], places=EVERYWHERE, measure=difference) -> np.ndarray:
    """[receivers, senders]: each stage of senders with gradients of its own."""
    receivers, senders = labels
    before, after = senders_of(w, base), senders_of(w, source)
    begin = base["blocks.0.hook_resid_pre"]
    stages = {"embed": [s for s in senders if s == "embed"]}
    for layer in range(len(w.layers)):
        stages[f"attn {layer}"] = [s for s in senders if s.startswith(f"{layer}.")]
        stages[f"mlp {layer}"] = [s for s in senders if s == f"mlp {layer}"]
    out = np.full((len(receivers), len(senders)), np.nan)
    for stage, members in stages.items():
        part, _, number = stage.partition(" ")
        site = "blocks.0.hook_resid_pre" if stage == "embed" else f"blocks.{number}.hook_{part}_out"
        change = moved(source[site], base[site], places)
        mean: dict[str, Tensor] = {}
        for i in range(steps):
            value = base[site] + (i + 0.5) / steps * change
            found = gradients(w, value, measure) if stage == "embed" else gradients(w, begin, measure, {stage: value})
            for label, gradient in found.items():
                if gradient is not None:
                    mean[label] = mean.get(label, 0) + gradient / steps
        for i, receiver in enumerate(receivers):
            for sender in members:
                if in_front(sender, receiver):
                    out[i, senders.index(sender)] = (moved(after[sender], before[sender], places) * mean[receiver]).sum()
    return out


@pytest.mark.parametrize("name", MODELS)
def test_eap_ig_over_activations(client, exact, name):
    w, model = exact(name), client.model(name)
    base, source = trace(w, CLEAN).sites, trace(w, CORRUPT).sites
    got = model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, method="eap_ig_activations", steps=3)
    labels = (list(got.axes[0].labels), list(got.axes[1].labels))
    assert "EAP-IG, activations" in got.convention
    assert_scores(got.scores, slow_activations(w, base, source, 3, labels))


def test_activations_of_prompts_of_unequal_length(client, exact):
    name = "gqa-tied-sharded"
    w, model = exact(name), client.model(name)
    corrupt, places = [*CORRUPT, 77], [0, 1, 2, 8, -1, 5, 7, 6]
    second = fs.metrics.logprob(RIGHT)
    base, source = trace(w, CLEAN).sites, trace(w, corrupt).sites
    got = model.attribute_edges(CLEAN, corrupt, metric=[METRIC, second], method="eap_ig_activations", steps=3, source_positions=places)
    labels = (list(got.axes[0].labels), list(got.axes[1].labels))
    for metric, measure in {METRIC: difference, second: lambda logits: logits[-1].softmax(-1)[RIGHT].sum().log()}.items():
        assert_scores(got[metric].scores, slow_activations(w, base, source, 3, labels, places, measure))
    # What else is asked for changes no score: neither other senders of the stage nor other receivers.
    few = model.attribute_edges(CLEAN, corrupt, [(1, 0), ("mlp", 0)], [("q", 2, 1), "logits"], METRIC, method="eap_ig_activations", steps=3,
                                source_positions=places)  # fmt: skip
    rows, columns = [labels[0].index(r) for r in ("q 2.1", "logits")], [labels[1].index(s) for s in ("1.0", "mlp 0")]
    assert_scores(few.scores, got[METRIC].scores[np.ix_(rows, columns)])
    # A sender that nobody hears.
    with pytest.raises((fs.InvalidArgumentError, ValueError), match="there is no path"):
        model.attribute_edges(CLEAN, CORRUPT, [("mlp", 2)], [("q", 0, 0)], METRIC, method="eap_ig_activations")


def test_edges_of_a_stage_add_up(client):
    """Over activations the edges from a stage to everything behind it add up to what patching that whole stage does."""
    model = client.model("gqa-tied-sharded")
    got = model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, method="eap_ig_activations", steps=64)
    senders = list(got.axes[1].labels)
    for site, members in (("attn_out", lambda layer: [s for s in senders if s.startswith(f"{layer}.")]), ("mlp_out", lambda layer: [f"mlp {layer}"])):
        exact = model.sweep(CLEAN, CORRUPT, site, ("layer",), METRIC, direction="noise").scores
        for layer in range(len(exact)):
            added = np.nansum(got.scores[:, [senders.index(s) for s in members(layer)]])
            assert added == pytest.approx(exact[layer], abs=1e-3 * np.abs(exact).max())


@pytest.mark.parametrize("method", ["eap", "eap_ig_activations"])
def test_verify(client, method):
    model = client.model("gqa-tied-sharded")
    second = fs.metrics.logprob(RIGHT)
    clean, corrupt = [CLEAN, CORRUPT[::-1]], [CORRUPT, CLEAN[::-1]]
    ask = {"senders": {"front": [(0, 0), (0, 1), "embed"], "one": [(1, 0)], "mlp": [("mlp", 0)], "h": (0, 2), "i": (0, 3)},
           "receivers": ["q", "v", "mlps", "logits"], "metric": [METRIC, second]}  # fmt: skip
    got = model.attribute_edges(clean, corrupt, method=method, verify=(4, 6), seed=3, **ask)
    direct = model.path_patch(clean, corrupt, mlps="freeze", **ask)
    assert "direct path alone" in got.convention
    for metric in (METRIC, second):
        estimates, exact, check = got[metric].scores.ravel(), direct[metric].scores.ravel(), got[metric].check
        assert list(check.cells) == choose([got[m].scores for m in (METRIC, second)], 4, 6, 3)
        assert check.exact.shape == got.values.shape
        assert np.isnan(np.delete(check.exact.ravel(), check.cells)).all()
        assert np.abs(check.exact.ravel()[check.cells] - exact[check.cells]).max() < 1e-5
        assert np.abs(exact[check.cells]).max() > 0 and np.isnan(exact).any()
        spearman = scipy.stats.spearmanr(estimates[check.cells], check.exact.ravel()[check.cells]).statistic
        assert check.spearman == pytest.approx(spearman, abs=1e-9)
        best, truly = (check.cells[np.argsort(-np.abs(x[check.cells]), kind="stable")[:4]] for x in (estimates, exact))
        assert check.precision == pytest.approx(len(set(best) & set(truly)) / 4)
        assert "Spearman" in repr(got[metric])
    heads = model.attribute_edges(CLEAN, CORRUPT, "heads", "logits", METRIC, method=method, verify=50)
    assert heads.check.cells.size == heads.scores.size and heads.by_head().check.exact.shape == heads.by_head().values.shape
    assert np.array_equal(heads.by_head().check.exact.ravel(), heads.check.exact.ravel())
    assert model.attribute_edges(CLEAN, CORRUPT, "heads", "logits", METRIC).check is None
    with pytest.raises(fs.InvalidArgumentError, match="verify.random is 5000; at most 4096"):
        model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, verify=(1, 5000))


def test_sets_positions_pairs_and_metrics(client, exact):
    name = "gqa-tied-sharded"
    w, model = exact(name), client.model(name)
    second = fs.metrics.logprob(RIGHT)
    pairs = [(CLEAN, CORRUPT), (CORRUPT[::-1], CLEAN[::-1])]
    senders = {"front": [(0, 0), (0, 1), "embed"], "one": [(1, 0)]}
    got = model.attribute_edges(
        [a for a, _ in pairs], [b for _, b in pairs], senders, {"read": [("q", 1, 0), ("k", 1, 0)], "out": "logits"}, [METRIC, second],
        sender_positions=[3, 4, 5, 7],
    )  # fmt: skip
    measures = {METRIC: difference, second: lambda logits: logits[-1].softmax(-1)[RIGHT].sum().log()}
    receivers = [["q 1.0", "k 1.0"], ["logits"]]
    members = [["0.0", "0.1", "embed"], ["1.0"]]
    for metric, measure in measures.items():
        for p, (clean, corrupt) in enumerate(pairs):
            base, source = trace(w, clean), trace(w, corrupt)
            grads = gradients(w, base.sites["blocks.0.hook_resid_pre"], measure)
            expected = [
                [together(slow_edges(w, base.sites, source.sites, grads, (r, s), [3, 4, 5, 7])) for s in members] for r in receivers
            ]  # fmt: skip
            scores = got[metric].per_pair[p] - got[metric].base[p]
            assert_scores(scores, np.array(expected))


def test_long_prompts_are_summed_in_pieces(client, exact):
    """More positions than one piece holds, checked against the sum of the single positions' scores."""
    model = client.model("gqa-tied-sharded")
    rng = np.random.default_rng(5)
    clean = rng.integers(1, 250, 60).tolist()
    corrupt = [int(token) if i % 7 else int(token) + 1 for i, token in enumerate(clean)]
    whole = model.attribute_edges(clean, corrupt, metric=METRIC).scores
    single = sum(model.attribute_edges(clean, corrupt, metric=METRIC, sender_positions=[p]).scores for p in range(60))
    assert_scores(single, whole)


def test_bad_edges(client):
    model = client.model("two")
    with pytest.raises(fs.InvalidArgumentError, match="an edge is direct"):
        model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, mlps="freeze")
    with pytest.raises(fs.InvalidArgumentError, match="rank.*no gradient"):
        model.attribute_edges(CLEAN, CORRUPT, metric=fs.metrics.rank(3))
    with pytest.raises(fs.InvalidArgumentError, match="steps is 300; 1 to 256"):
        model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, method="eap_ig", steps=300)
    with pytest.raises(fs.InvalidArgumentError, match="same number of tokens"):
        model.attribute_edges(CLEAN, CORRUPT[:-1], metric=METRIC, method="eap_ig", source_positions=EVERYWHERE[:-1] + [6])
    with pytest.raises(ValueError, match="not one of 'eap', 'eap_ig', 'eap_ig_activations'"):
        model.attribute_edges(CLEAN, CORRUPT, metric=METRIC, method="x")
