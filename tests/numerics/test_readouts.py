"""The logit lens and direct logit attribution on the server against the reference, and the cache's stacks against TransformerLens."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest
import torch

from . import lens
from .checkpoints import SPECS
from .compare import TINY, assert_close
from .reference import Norm, Trace, Weights, add, trace
from .serving import SMOLLM2

IDS = [0, 17, 42, 9, 42, 8, 133, 299]
OTHER = [0, 9, 42, 250, 11, 7, 133, 5]
MODELS = ["mha", "gqa-tied-sharded", "biases", "two", "two-untied-head20"]
IN_LENS = [name for name in MODELS if SPECS[name].in_transformer_lens]


def normed(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    if norm.bias is not None:
        x = x - x.mean(-1, keepdim=True)
    return add(x / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight, norm.bias)


# The logit lens.


@pytest.mark.parametrize("site", ["resid_post", "resid_mid", "mlp_out"])
@pytest.mark.parametrize("name", MODELS)
def test_logit_lens(client, exact, name, site):
    w = exact(name)
    got = client.model(name).logit_lens(IDS, site=site, top_k=4)
    sites = trace(w, IDS).sites
    for layer in range(len(w.layers)):
        logits = normed(sites[f"blocks.{layer}.hook_{site}"], w.ln_final) @ w.unembed
        best = logits.topk(4, -1)
        np.testing.assert_array_equal(got.tokens[layer], best.indices.numpy())
        assert_close(got.logits[layer], best.values, TINY, f"{site} {layer}")
        assert_close(got.logprobs[layer], logits.log_softmax(-1).gather(-1, best.indices), TINY, f"{site} {layer}")
    assert got.layers == tuple(range(len(w.layers))) and got.positions == tuple(range(len(IDS)))


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_logit_lens_of_chosen_tokens_layers_and_positions(client, exact, name):
    w = exact(name)
    got = client.model(name).logit_lens(IDS, tokens=[5, 17, 5], layers=[-1, 0], positions=[2, -1])
    sites = trace(w, IDS).sites
    assert got.layers == (0, 2) and got.positions == (2, 7) and got.tokens[1, 1].tolist() == [5, 17, 5]
    for row, layer in enumerate(got.layers):
        logits = (normed(sites[f"blocks.{layer}.hook_resid_post"], w.ln_final) @ w.unembed)[[2, 7]]
        assert_close(got.logits[row], logits[:, [5, 17, 5]], TINY, name)
        assert_close(got.logprobs[row], logits.log_softmax(-1)[:, [5, 17, 5]], TINY, name)


def test_the_last_layer_is_the_model_itself(client, exact):
    model = client.model("two")
    logits, _ = model.run_with_cache(IDS, ())
    got = model.logit_lens(IDS, top_k=300, layers=-1)
    assert_close(np.take_along_axis(logits[0], got.tokens[0], -1), got.logits[0], 1e-5, "logits")


def test_a_lens_of_heads_and_of_many_positions(client, exact):
    """Any vector of the residual can be read out, also head by head; more positions than one step takes give the same as a few."""
    w, model = exact("gqa-tied-sharded"), client.model("gqa-tied-sharded")
    ids = [int(i) for i in np.random.default_rng(3).integers(0, 300, 60)]
    _, cache = model.run_with_cache(ids, "blocks.1.attn.hook_result", reduction=fs.Lens(top_k=2), logits=None)
    value = cache["result", 1]
    assert isinstance(value, fs.LensValues) and value.tokens.shape == (1, 60, 4, 2)  # 240 vectors, 128 a step
    logits = normed(trace(w, ids).sites["blocks.1.attn.hook_result"], w.ln_final) @ w.unembed
    assert_close(value.logits[0], logits.topk(2, -1).values, TINY, "result")


def test_what_a_lens_cannot_read(client):
    model = client.model("two")
    for names, reduction, words in [
        ("blocks.0.mlp.hook_post", fs.Lens(top_k=1), "reads whole vectors of the residual, and blocks.0.mlp.hook_post has none"),
        ("blocks.0.hook_resid_pre", fs.Lens(top_k=301), "top_k is 301; the vocabulary has 300"),
        ("blocks.0.hook_resid_pre", fs.Lens(tokens=[300]), "token id 300"),
        ("blocks.0.hook_resid_pre", fs.Writes(np.ones((1, 48))), r"is for mlp\.hook_post"),
        ("blocks.0.mlp.hook_post", fs.Writes(np.ones((1, 47))), r"must be \[n, 48\]"),
        ("blocks.0.mlp.hook_post", fs.Writes(np.ones((1, 48)), top_k=193), "top_k is 193; there are 192 units"),
    ]:  # fmt: skip
        with pytest.raises(fs.InvalidArgumentError, match=words):
            model.run_with_cache(IDS, names, reduction=reduction)


# Direct logit attribution.


def slow_attribution(w: Weights, run: Trace, answer: int, foil: int | None, position: int) -> dict[str, float]:
    """Every part's share of the answer's logit minus the foil's, with the final norm's scale as it is."""
    resid = run.sites[f"blocks.{len(w.layers) - 1}.hook_resid_post"][position]
    centred = w.ln_final.bias is not None
    away = resid - resid.mean() if centred else resid
    scale = (away.pow(2).mean() + w.ln_final.eps).sqrt()
    unembed = w.unembed[:, answer] - (w.unembed[:, foil] if foil is not None else 0)

    def share(part: torch.Tensor) -> float:
        return float(((part - part.mean() if centred else part) / scale * w.ln_final.weight) @ unembed)

    out = {"embed": share(run.sites["hook_embed"][position])}
    if w.positions is not None:
        out["pos_embed"] = share(run.sites["hook_pos_embed"][position])
    for layer, block in enumerate(w.layers):
        for part in ("attn_out", "mlp_out"):
            out[f"{layer}_{part}"] = share(run.sites[f"blocks.{layer}.hook_{part}"][position])
        for head in range(w.heads):
            out[f"L{layer}H{head}"] = share(run.sites[f"blocks.{layer}.attn.hook_result"][position, head])
        post = run.sites[f"blocks.{layer}.mlp.hook_post"][position]
        for neuron in range(len(post)):
            out[f"L{layer}N{neuron}"] = share(post[neuron] * block.w_out[neuron])
    out["bias"] = float(w.ln_final.bias @ unembed) if centred else 0.0
    return out


@pytest.mark.parametrize("foil", [17, None])
@pytest.mark.parametrize("name", MODELS)
def test_logit_attribution(client, exact, name, foil):
    w, model = exact(name), client.model(name)
    run = trace(w, IDS)
    for position in (-1, 3):
        slow = slow_attribution(w, run, 5, foil, position)
        total = float(run.logits[position, 5] - (run.logits[position, foil] if foil is not None else 0))
        for by in ("component", "head", "neuron"):
            got = model.logit_attrs(IDS, 5, foil, by=by, position=position)
            for label, value in zip(got.labels, got.values, strict=True):
                if label != "remainder" and not (by == "head" and label == "bias"):
                    assert value == pytest.approx(slow[label], abs=TINY), (by, label)
            assert got.total[0] == pytest.approx(total, abs=TINY) and got.values.sum() == pytest.approx(total, abs=TINY)
        biases = sum(slow[f"{layer}_attn_out"] - sum(slow[f"L{layer}H{head}"] for head in range(w.heads)) for layer in range(len(w.layers)))
        assert model.logit_attrs(IDS, 5, foil, by="head", position=position)["bias"] == pytest.approx(slow["bias"] + biases, abs=TINY)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_the_largest_neurons_and_all_of_them(client, exact, name):
    w, model = exact(name), client.model(name)
    slow = slow_attribution(w, trace(w, IDS), 5, 17, -1)
    neurons = sorted((abs(value), label) for label, value in slow.items() if "N" in label)
    got = model.logit_attrs(IDS, 5, 17, by="neuron", top_k=7)
    assert [label for label, _ in got.top(8) if label != "remainder"][:7] == [label for _, label in neurons[::-1][:7]] and len(got.labels) == 8
    several = model.logit_attrs([IDS, OTHER], [5, 8], [17, 11], by="neuron")
    other = slow_attribution(w, trace(w, OTHER), 8, 11, -1)
    assert several.per_prompt.shape == (2, len(neurons) + 1)
    for row, expected in enumerate([slow, other]):
        numbers = np.array([expected[label] for label in several.labels[:-1]])
        assert np.abs(several.per_prompt[row, :-1] - numbers).max() <= TINY
    assert np.abs(several.per_prompt.sum(1) - several.total).max() <= TINY


def test_prompts_of_unequal_length_with_their_own_answers(client, exact):
    w, model = exact("two"), client.model("two")
    prompts, answers, foils = [IDS, IDS[:5], OTHER], [5, 8, 5], [17, 11, 17]
    got = model.logit_attrs(prompts, answers, foils)
    for row, (ids, answer, foil) in enumerate(zip(prompts, answers, foils, strict=True)):
        slow = slow_attribution(w, trace(w, ids), answer, foil, -1)
        assert got.per_prompt[row] == pytest.approx([slow[label] for label in got.labels], abs=TINY)


# The cache's stacks.


def stacks_agree(ours, theirs, ids: list[list[int]], layers: int, limit: float) -> None:
    """Every helper with the same arguments on both caches: shapes, labels and numbers. `limit`: relative to each vector's length."""

    def close(got, expected, what):
        (a, la), (b, lb) = (x if isinstance(x, tuple) else (x, None) for x in (got, expected))
        b = b.detach().numpy()
        assert la == lb and a.shape == b.shape, what
        a, b = a.astype(np.float64), b.astype(np.float64)
        if a.ndim == 0 or a.size == 0:
            return
        error = np.linalg.norm(a - b, axis=-1) / np.maximum(np.linalg.norm(b, axis=-1), 1e-3)
        assert error.max() <= limit, (what, error.max())

    for arguments in [{}, {"layer": 1}, {"layer": 1, "mlp_input": True}, {"incl_mid": True}, {"apply_ln": True}, {"apply_ln": True, "layer": 1},
                      {"apply_ln": True, "layer": 1, "mlp_input": True}, {"pos_slice": -1}, {"pos_slice": (1, 3), "apply_ln": True}, {"pos_slice": [0, 2]},
                      {"apply_ln": True, "pos_slice": -1, "incl_mid": True}, {"layer": 0}]:  # fmt: skip
        for name in ("accumulated_resid", "decompose_resid"):
            if name == "decompose_resid" and "incl_mid" in arguments:
                continue
            chosen = arguments | {"return_labels": True}
            close(getattr(ours, name)(**chosen), getattr(theirs, name)(**chosen), (name, arguments))
    for arguments in [{"mode": "mlp"}, {"mode": "attn", "incl_embeds": False}, {"layer": 1, "mode": "attn", "mlp_input": True}]:
        close(ours.decompose_resid(**arguments, return_labels=True), theirs.decompose_resid(**arguments, return_labels=True), arguments)
    for arguments in [{}, {"layer": 1}, {"incl_remainder": True}, {"apply_ln": True, "pos_slice": -1}, {"pos_slice": (None, 2)}, {"layer": 0}]:
        close(ours.stack_head_results(**arguments, return_labels=True), theirs.stack_head_results(**arguments, return_labels=True), arguments)
    close(ours.stack_activation("resid_pre"), theirs.stack_activation("resid_pre"), "stack_activation")
    close(ours.stack_activation("scale", 2, "ln2"), theirs.stack_activation("scale", 2, "ln2"), "stack_activation")

    right, wrong = [row[-1] for row in ids], [row[0] + 3 for row in ids]
    mine, other = ours.decompose_resid(pos_slice=-1), theirs.decompose_resid(pos_slice=-1)
    for tokens, foils in [(5, None), (5, 17), (right, wrong)]:
        got = ours.logit_attrs(mine, tokens, foils, pos_slice=-1)
        expected = theirs.logit_attrs(other, *(torch.tensor(t) if isinstance(t, list) else t for t in (tokens, foils)), pos_slice=-1).detach().numpy()
        assert got.shape == expected.shape and np.abs(got - expected).max() <= max(limit * 50, 2e-4) * max(1, np.abs(expected).max()), (tokens, foils)
    got = ours.logit_attrs(ours.decompose_resid(pos_slice=-1), right[0], pos_slice=-1, batch_slice=0)
    expected = theirs.logit_attrs(theirs.decompose_resid(pos_slice=-1), right[0], pos_slice=-1, batch_slice=0).detach().numpy()
    assert got.shape == expected.shape and np.abs(got - expected).max() <= 2e-4 * max(1, np.abs(expected).max())
    tokens = np.array(ids)
    got = ours.logit_attrs(ours.decompose_resid(), tokens)
    expected = theirs.logit_attrs(theirs.decompose_resid(), torch.tensor(tokens)).detach().numpy()
    assert got.shape == expected.shape and np.abs(got - expected).max() <= 2e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", IN_LENS)
def test_stacks_equal_transformer_lens(client, checkpoints, name):
    ids = [IDS, OTHER]
    theirs_model = lens.load(checkpoints[name].path, checkpoints[name].model)
    with torch.no_grad():
        _, theirs = theirs_model.run_with_cache(torch.tensor(ids), prepend_bos=False)
    _, ours = client.model(name).run_with_cache(ids, None)
    stacks_agree(ours, theirs, ids, theirs_model.cfg.n_layers, 2e-5)


def test_stacks_without_the_batch_axis(client, checkpoints):
    theirs_model = lens.load(checkpoints["two"].path, checkpoints["two"].model)
    with torch.no_grad():
        _, theirs = theirs_model.run_with_cache(torch.tensor([IDS]), prepend_bos=False, remove_batch_dim=True)
    _, ours = client.model("two").run_with_cache(IDS, None, remove_batch_dim=True)
    got, expected = ours.accumulated_resid(apply_ln=True), theirs.accumulated_resid(apply_ln=True)
    assert_close(got, expected.detach(), TINY, "accumulated_resid")
    got = ours.logit_attrs(ours.stack_head_results(pos_slice=-1), 5, 17, pos_slice=-1, has_batch_dim=False)
    expected = theirs.logit_attrs(theirs.stack_head_results(pos_slice=-1), 5, 17, pos_slice=-1, has_batch_dim=False)
    assert_close(got, expected.detach(), TINY, "logit_attrs")


def test_what_a_stack_cannot_be_made_of(client):
    model = client.model("two")
    _, cache = model.run_with_cache(IDS, "blocks.*.hook_resid_pre")
    with pytest.raises(KeyError, match=r"blocks\.2\.hook_resid_post was not captured"):
        cache.accumulated_resid()
    assert cache.accumulated_resid(layer=2).shape == (3, 1, 8, 48)
    _, ragged = model.run_with_cache([IDS, IDS[:3]], "blocks.*.hook_resid_pre")
    with pytest.raises(ValueError, match="equal length"):
        ragged.accumulated_resid(layer=1)
    with pytest.raises(ValueError, match="layer is 4; 0 to 3 are allowed"):
        cache.accumulated_resid(layer=4)
    with pytest.raises(ValueError, match="same shape"):
        cache.logit_attrs(cache.accumulated_resid(layer=1), [5, 6], 3)


def test_stacks_equal_transformer_lens_on_smollm2(smollm2, smollm2_torch, smollm2_path):
    prompts = ["When John and Mary went to the shops, John gave the bag to", "When Tom and Anna went to the park, Tom gave the ball to"]
    theirs_model = lens.load(smollm2_path, smollm2_torch)
    with fs.connect(smollm2.address) as client:
        model = client.model(SMOLLM2)
        ids = model.tokenize(prompts)
        with torch.no_grad():
            _, theirs = theirs_model.run_with_cache(torch.tensor(ids), prepend_bos=False)
        _, ours = model.run_with_cache(ids, None)
        # Sums over 30 layers and a sink whose residual is a hundred times longer than the others' (docs/architecture.md): vectors of 1e-4.
        stacks_agree(ours, theirs, ids, 30, 1e-4)
        got = model.logit_attrs(prompts, [" Mary", " Anna"], [" John", " Tom"])
        assert np.abs(got.per_prompt.sum(1) - got.total).max() <= 5e-4
