"""Rows that begin in the middle of the model with the client's activations run on as a whole run would."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import inference_pb2, plan_pb2

from .compare import ALONE, TINY, assert_close
from .reference import trace
from .serving import ALL_LOGITS, capture, copy, edit, logits, tensor, token

A = [0, 17, 42, 9, 42, 8, 133, 299, 64, 5, 81]
B = [5, 6, 7, 8, 9, 11]
MODELS = ["gqa-tied-sharded", "two", "biases"]
STARTS = ["hook_resid_pre", "hook_resid_mid"]


def start(site: str, value, ids=()) -> plan_pb2.Activations:
    return plan_pb2.Activations(start_at=site, value=tensor(np.asarray(value)), token_ids=ids)


def made_up(w, ids: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(ids), w.embed.shape[1])).astype(np.float32)


def run_on(w, ids, site, value, change=lambda hook, x: x):
    """The slow way: a whole run whose value at the start is replaced. What lies in front of it does not matter then."""
    return trace(w, ids, lambda hook, x: change(hook, torch.from_numpy(value)) if hook == site else change(hook, x))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", STARTS)
def test_every_layer_and_every_hook_behind_it(server, weights, name, site):
    """Alone, and among rows that begin with tokens or in other layers."""
    w = weights(name)
    for layer in range(len(w.layers)):
        full = f"blocks.{layer}.{site}"
        value = made_up(w, A, layer)
        expected = run_on(w, A, full, value)
        names = list(expected.sites)
        behind = [hook for hook in names[names.index(full) :] if not hook.endswith("hook_attn_scores")]
        first = f"blocks.0.{site}"
        short = made_up(w, B, 7)
        rows = [A, start(full, value), start(first, short), B, start(full, value[:4])]
        result = server.forward(name, rows, captures=[capture(behind, rows=[1])], logits=ALL_LOGITS)
        assert set(result.sites(1)) == set(behind)
        for hook in behind:
            assert_close(result.get(hook, 1), expected.sites[hook], TINY, f"{full}: {hook}")
        assert_close(result.get("logits", 1), expected.logits, TINY, full)
        assert_close(result.get("logits", 0), trace(w, A).logits, TINY, "a row with tokens beside it")
        assert_close(result.get("logits", 2), run_on(w, B, first, short).logits, TINY, "a row that begins elsewhere")
        assert_close(result.get("logits", 4), expected.logits[:4], TINY, "a shorter row that begins with it")
        alone = server.forward(name, [start(full, value)], logits=logits(at=[2, -1]))
        np.testing.assert_allclose(alone.get("logits"), result.get("logits", 1)[[2, -1]], atol=ALONE, rtol=0)


@pytest.mark.parametrize("site", STARTS)
def test_going_on_from_what_a_run_had_gives_its_answer(server, site):
    for layer in range(2):
        full = f"blocks.{layer}.{site}"
        whole = server.forward("two", [A], captures=[capture(full)], logits=ALL_LOGITS)
        going_on = server.forward("two", [start(full, whole.get(full))], logits=ALL_LOGITS)
        np.testing.assert_allclose(going_on.get("logits"), whole.get("logits"), atol=ALONE, rtol=0)


@pytest.mark.parametrize("site", STARTS)
def test_edits_at_the_start_and_behind_it_and_as_a_source(server, weights, site):
    w = weights("gqa-tied-sharded")
    full, behind = f"blocks.1.{site}", "blocks.1.hook_mlp_out"
    value = made_up(w, A, 1)

    def slow(hook, x):
        factor = {full: 0.5, behind: -2.0}.get(hook)
        if factor is None:
            return x
        out = x.clone()
        out[3:5] *= factor
        return out

    edits = [edit(full, rows=[1], at=slice(3, 5), scale=plan_pb2.Scale(factor=0.5)), edit(behind, rows=[1], at=slice(3, 5), scale=plan_pb2.Scale(factor=-2))]
    edits.append(copy(behind, row=1, to=0, at=[9]))
    result = server.forward("gqa-tied-sharded", [A, start(full, value)], interventions=edits, logits=ALL_LOGITS)
    expected = run_on(w, A, full, value, slow)
    assert_close(result.get("logits", 1), expected.logits, TINY, full)

    def copied(hook, x):
        if hook != behind:
            return x
        out = x.clone()
        out[9] = expected.sites[behind][9]
        return out

    assert_close(result.get("logits", 0), trace(w, A, copied).logits, TINY, "a row that copies from it")


def test_tokens_of_a_start_are_for_labels_and_targets(server, weights):
    w = weights("two")
    site, value = "blocks.1.hook_resid_pre", made_up(w, A, 2)
    by_token = edit(site, rows=[0], zero=plan_pb2.Zero())
    by_token.select.positions.items.add(occurrences_of=token(42))
    entropy = plan_pb2.Metric(name="ce", rows=[0], cross_entropy=plan_pb2.CrossEntropy())
    result = server.forward("two", [start(site, value, A), start(site, value)], interventions=[by_token], metrics=[entropy],
                            captures=[capture(site)], logits=ALL_LOGITS)  # fmt: skip
    rows = result.reply.header.rows
    assert list(rows[0].token_ids) == A and list(rows[1].token_ids) == [-1] * len(A)
    assert list(result.header(site, 0).token_ids) == A
    zeroed = value.copy()
    zeroed[[2, 4]] = 0
    np.testing.assert_array_equal(result.get(site, 0), zeroed)
    log_p = torch.from_numpy(result.get("logits", 0)).double().log_softmax(-1).numpy()
    for p, target in enumerate(A[1:]):
        assert result.metric("ce")[0, p] == pytest.approx(-log_p[p, target], abs=TINY)


def bad(server, word: str, rows, **request) -> None:
    with pytest.raises(grpc.RpcError) as error:
        server.forward("two", rows, **request)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT, error.value.details()
    assert word in error.value.details(), error.value.details()


def test_what_is_wrong_with_a_start_is_said(server, weights):
    d = weights("two").embed.shape[1]
    value = np.zeros((3, d), np.float32)
    good = start("blocks.1.hook_resid_mid", value)
    for site in ("blocks.1.hook_mlp_out", "blocks.*.hook_resid_pre", "hook_embed", "ln_final.hook_normalized"):
        bad(server, "hook_resid_pre or hook_resid_mid", [start(site, value)])
    for shape in ((d,), (0, d), (3, d + 1), (1, 3, d)):
        bad(server, "prompts[0].activations.value", [start("blocks.1.hook_resid_pre", np.zeros(shape, np.float32))])
    bad(server, "NaN", [start("blocks.1.hook_resid_pre", value * np.nan)])
    bad(server, "2 entries for 3 positions", [start("blocks.1.hook_resid_pre", value, [1, 2])])
    bad(server, "outside the vocabulary", [start("blocks.1.hook_resid_pre", value, [1, 2, 10**6])])
    bad(server, "context", [start("blocks.1.hook_resid_pre", np.zeros((5000, d), np.float32))])
    for hook in ("blocks.1.attn.hook_z", "blocks.0.hook_resid_post", "hook_embed"):
        bad(server, f"has no {hook}", [good], captures=[capture(hook)])
        bad(server, f"has no {hook}", [good], interventions=[edit(hook, zero=plan_pb2.Zero())])
        bad(server, f"has no {hook}", [[1, 2, 3], good], interventions=[copy(hook, row=1, to=0)])
    bad(server, "without token ids", [good], metrics=[plan_pb2.Metric(name="ce", cross_entropy=plan_pb2.CrossEntropy())])


def test_estimate_knows_it_begins_late(server, weights):
    w = weights("gqa-tied-sharded")
    last = len(w.layers) - 1

    def flops(prompt: plan_pb2.Prompt) -> float:
        request = inference_pb2.ForwardRequest(model="gqa-tied-sharded", prompts=[prompt], logits=ALL_LOGITS)
        return server.estimate(request).flops

    whole, late = flops(plan_pb2.Prompt(tokens=plan_pb2.TokenIds(ids=A))), flops(plan_pb2.Prompt(activations=start(f"blocks.{last}.hook_resid_pre", made_up(w, A, 0))))
    first = flops(plan_pb2.Prompt(activations=start("blocks.0.hook_resid_pre", made_up(w, A, 0))))
    assert first == whole and late < whole
