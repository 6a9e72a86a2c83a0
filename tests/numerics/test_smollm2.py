"""A real model, SmolLM2-135M, by the limits of compare.py: relative to each token's own vector, at every position.

Position 0 of a real model is an attention sink: its residual is a hundred times longer than the others', and one float32 step there is
2e-3. So float64 decides: every hook point is compared with the reference in float64, which plain float32 PyTorch meets within 8e-6.
"""

from __future__ import annotations

import re

import grpc
import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from . import lens
from .compare import LOGIT, VECTOR, assert_vectors_close
from .reference import Trace, trace, weights_of
from .serving import ALL_LOGITS, SMOLLM2, capture, copy, edit, logit_difference, logits, tensor

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
OTHERS = ["The capital of France is", "Once", CORRUPT, "It was the best of times, it was the worst of times, it was the age of"]


@pytest.fixture(scope="module")
def ids(smollm2_path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_path)(CLEAN)["input_ids"]


@pytest.fixture(scope="module")
def exact(smollm2_torch, ids) -> Trace:
    """Every hook point in float64."""
    return trace(weights_of(smollm2_torch, torch.float64), ids)


@pytest.fixture(scope="module")
def everything(smollm2):
    return smollm2.forward(SMOLLM2, [CLEAN, *OTHERS], captures=[capture("*", rows=[0])], logits=ALL_LOGITS)


def test_tokens_are_the_tokenizers_own(everything, ids):
    row = everything.reply.header.rows[0]
    assert list(row.token_ids) == ids
    assert len(ids) == 14
    assert not row.bos_added


def test_logits_equal_transformers_at_every_position(everything, smollm2_torch, ids, exact):
    with torch.no_grad():
        theirs = smollm2_torch(torch.tensor([ids])).logits[0]
    got = everything.get("logits")
    assert np.abs(got - theirs.numpy()).max() <= LOGIT
    assert np.abs(got - exact.logits.numpy()).max() <= LOGIT


def test_every_site_at_every_position(everything, exact):
    got = everything.sites()
    assert set(got) == set(exact.sites)
    for site, value in exact.sites.items():
        if site.endswith("attn_scores"):
            assert_scores_close(got[site], exact.sites, site.split(".")[1])
        else:
            assert_vectors_close(got[site], value, VECTOR, site)


def assert_scores_close(got: np.ndarray, expected: dict, layer: str) -> None:
    """A score is a product that may cancel to almost nothing, so its error is measured against the lengths of q and k."""
    q, k = (np.linalg.norm(expected[f"blocks.{layer}.attn.hook_rot_{letter}"], axis=-1) for letter in "qk")
    size = np.einsum("qh,kh->hqk", q, k.repeat(3, axis=1)) / 64**0.5
    scores = np.asarray(expected[f"blocks.{layer}.attn.hook_attn_scores"])
    visible = np.isfinite(scores)
    assert (np.isfinite(got) == visible).all()
    assert (np.abs(got[visible] - scores[visible]) <= VECTOR * size[visible]).all(), f"layer {layer}"


@pytest.mark.parametrize("row", range(1 + len(OTHERS)))
def test_row_law(smollm2, row):
    """The same row alone and among others of other lengths: every site, at every position."""
    together = smollm2.forward(SMOLLM2, [CLEAN, *OTHERS], captures=[capture("*", rows=[row])], logits=ALL_LOGITS)
    alone = smollm2.forward(SMOLLM2, [[CLEAN, *OTHERS][row]], captures=[capture("*")], logits=ALL_LOGITS)
    assert np.abs(alone.get("logits") - together.get("logits", row)).max() <= LOGIT
    among = together.sites(row)
    assert set(alone.sites()) == set(among)
    for site, value in alone.sites().items():
        if site.endswith("attn_scores"):
            assert_scores_close(value, among, site.split(".")[1])
        else:
            assert_vectors_close(value, among[site], VECTOR, site)


def test_hooks_on_one_row_leave_the_bits_of_other_rows_alone(smollm2, everything):
    """What is read of a row, and an edit that reads no other row: the batch stays as it is."""
    plain = smollm2.forward(SMOLLM2, [CLEAN, *OTHERS], logits=ALL_LOGITS)
    zeroed = smollm2.forward(
        SMOLLM2, [CLEAN, *OTHERS], interventions=[edit("blocks.10.hook_resid_pre", rows=[0], zero=plan_pb2.Zero())], logits=ALL_LOGITS
    )
    assert np.abs(zeroed.get("logits", 0) - plain.get("logits", 0)).max() > 1
    for row in range(1, 1 + len(OTHERS)):
        np.testing.assert_array_equal(everything.get("logits", row), plain.get("logits", row))
        np.testing.assert_array_equal(zeroed.get("logits", row), plain.get("logits", row))


def test_a_copy_changes_the_batch_of_other_rows_and_nothing_else(smollm2):
    """Its source runs in an earlier batch. The others then have the bits of a request without that row; the row law covers the difference to a request
    with it, and for isolated rows there is none."""
    rows, source, others = [CLEAN, *OTHERS], 3, (1, 2, 4)
    assert rows[source] == CORRUPT
    edits = [copy("blocks.10.hook_resid_pre", row=source, to=0)]
    plain, alone = (smollm2.forward(SMOLLM2, rows, logits=ALL_LOGITS, isolated=isolated) for isolated in (False, True))
    copied, copied_alone = (smollm2.forward(SMOLLM2, rows, interventions=edits, logits=ALL_LOGITS, isolated=isolated) for isolated in (False, True))
    without = smollm2.forward(SMOLLM2, rows[:source] + rows[source + 1 :], logits=ALL_LOGITS)
    assert np.abs(copied.get("logits", 0) - plain.get("logits", 0)).max() > 1
    for row in others:
        assert np.abs(copied.get("logits", row) - plain.get("logits", row)).max() <= LOGIT
        np.testing.assert_array_equal(copied.get("logits", row), without.get("logits", row - (row > source)))
        np.testing.assert_array_equal(copied_alone.get("logits", row), alone.get("logits", row))
    assert np.abs(copied.get("logits", source) - plain.get("logits", source)).max() <= LOGIT
    np.testing.assert_array_equal(copied_alone.get("logits", source), alone.get("logits", source))


def test_what_is_read_in_the_last_layer_decides_how_many_lines_it_has(smollm2):
    """Only positions that are read go through all of it: 5 lines here, or 49, which is where products take another way."""
    rows, asked = [CLEAN, *OTHERS], [capture("blocks.29.hook_resid_post", rows=[0, 3, 4])]
    for isolated in (False, True):
        plain = smollm2.forward(SMOLLM2, rows, logits=logits(), isolated=isolated)
        looked_at = smollm2.forward(SMOLLM2, rows, captures=asked, logits=logits(), isolated=isolated)
        for row in (1, 2):
            difference = np.abs(looked_at.get("logits", row) - plain.get("logits", row)).max()
            assert difference <= (0 if isolated else LOGIT)


def test_identities_hold_at_every_layer(everything, smollm2_torch):
    get = everything.get
    for layer in range(30):
        at = f"blocks.{layer}"
        assert_vectors_close(get(f"{at}.hook_resid_pre") + get(f"{at}.hook_attn_out"), get(f"{at}.hook_resid_mid"), VECTOR, f"{at} mid")
        assert_vectors_close(get(f"{at}.hook_resid_mid") + get(f"{at}.hook_mlp_out"), get(f"{at}.hook_resid_post"), VECTOR, f"{at} post")
        pattern, v = get(f"{at}.attn.hook_pattern"), get(f"{at}.attn.hook_v").repeat(3, axis=1)
        assert_vectors_close(np.einsum("hqk,khd->qhd", pattern, v), get(f"{at}.attn.hook_z"), VECTOR, f"{at} z")
        assert np.abs(pattern.sum(-1) - 1).max() <= 1e-5
    final = get("ln_final.hook_normalized") * smollm2_torch.model.norm.weight.detach().numpy()
    assert np.abs(final @ smollm2_torch.lm_head.weight.detach().numpy().T - get("logits")).max() <= LOGIT


def test_what_everyone_knows_about_this_model(smollm2):
    """The numbers in the README: the capital of France, and who gets the bag."""
    result = smollm2.forward(SMOLLM2, ["The capital of France is", CLEAN], logits=logits(top_k=1), metrics=[logit_difference([" Mary"], [" John"], rows=[1])])
    assert np.exp(result.get("top.logprobs", 0)[0, 0]) == pytest.approx(0.77, abs=0.01)
    assert np.exp(result.get("top.logprobs", 1)[0, 0]) == pytest.approx(0.84, abs=0.01)
    assert list(result.metric().values()) == [pytest.approx(3.12, abs=0.01)]


def test_gradients_equal_transformer_lens_backward_hooks(smollm2, smollm2_torch, smollm2_path, ids):
    """A few sites, of the plain run and of one with a head and a stretch of the residual edited. Float32 on both sides; the limit is 1e-4 of the largest
    entry."""
    from transformers import AutoTokenizer

    mary, john = (AutoTokenizer.from_pretrained(smollm2_path)(word)["input_ids"][0] for word in (" Mary", " John"))
    theirs = lens.load(smollm2_path, smollm2_torch)
    for parameter in theirs.parameters():
        parameter.requires_grad_(False)
    theirs.embed.W_E.requires_grad_(True)
    head, residual = "blocks.20.attn.hook_z", "blocks.12.hook_resid_mid"
    names = ["hook_embed", "blocks.3.hook_resid_pre", residual, "blocks.29.hook_resid_post", head, "blocks.20.attn.hook_q", "blocks.5.attn.hook_v",
             "blocks.15.attn.hook_pattern", "blocks.9.mlp.hook_post", "blocks.9.hook_mlp_out", "ln_final.hook_normalized"]  # fmt: skip

    def zero_head(value, hook):
        value = value.clone()
        value[:, :, 4] = 0
        return value

    def scale(value, hook):
        value = value.clone()
        value[:, 5:9] = value[:, 5:9] * 0.5
        return value

    edits = [edit(head, heads=[4], zero=plan_pb2.Zero()), edit(residual, at=slice(5, 9), scale=plan_pb2.Scale(factor=0.5))]
    for hooks, interventions in (([], []), ([(head, zero_head), (residual, scale)], edits)):
        kept = {}

        def keep(gradient, hook, kept=kept):
            kept[hook.name] = gradient[0].detach().numpy()

        with torch.enable_grad(), theirs.hooks(fwd_hooks=hooks, bwd_hooks=[(name, keep) for name in names]):
            logit = theirs(torch.tensor([ids]), prepend_bos=False)[0, -1]
            (logit[mary] - logit[john]).backward()
        asked = capture(names)
        asked.gradient_of = "diff"
        result = smollm2.forward(SMOLLM2, [ids], captures=[asked], interventions=interventions, metrics=[logit_difference([mary], [john])])
        for name in names:
            largest = np.abs(kept[name]).max()
            assert np.abs(result.get(name) - kept[name]).max() <= 1e-4 * largest, (name, len(interventions))


def test_gradients_that_do_not_fit_are_refused(smollm2):
    """30 layers of scores and patterns of 8,000 tokens: 140 GB."""
    asked = capture("*")
    asked.gradient_of = "diff"
    with pytest.raises(grpc.RpcError) as raised:
        smollm2.forward(SMOLLM2, [[5] * 8000], captures=[asked], metrics=[logit_difference([3], [4])])
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    needed, allowed = map(int, re.findall(r"\((\d+) bytes\)", raised.value.details()))
    assert needed > allowed, raised.value.details()


def test_patching_equals_transformer_lens(smollm2, smollm2_torch, smollm2_path, ids):
    """One cell of activation patching: the clean run's residual at the name that differs, put into the corrupt run."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    corrupt = tokenizer(CORRUPT)["input_ids"]
    where = [i for i, (a, b) in enumerate(zip(ids, corrupt, strict=True)) if a != b]
    assert where == [9]
    mary, john = (tokenizer(word)["input_ids"] for word in (" Mary", " John"))
    theirs = lens.load(smollm2_path, smollm2_torch)
    with torch.no_grad():
        _, clean = theirs.run_with_cache(torch.tensor([ids]), names_filter=lambda name: "resid_pre" in name or "hook_z" in name)
        for site in ("blocks.0.hook_resid_pre", "blocks.12.hook_resid_pre", "blocks.20.hook_resid_pre", "blocks.15.attn.hook_z"):

            def put(value, hook, site=site):
                value[:, where] = clean[site][:, where]
                return value

            expected = theirs.run_with_hooks(torch.tensor([corrupt]), fwd_hooks=[(site, put)])[0, -1]
            difference = float(expected[mary[0]] - expected[john[0]])
            result = smollm2.forward(
                SMOLLM2, [CLEAN, CORRUPT],
                interventions=[copy(site, row=0, to=1, at=where)], metrics=[logit_difference([" Mary"], [" John"], rows=[1])],
            )  # fmt: skip
            assert list(result.metric().values()) == [pytest.approx(difference, abs=1e-3)], site


def test_ablation_and_steering_equal_transformer_lens(smollm2, smollm2_torch, smollm2_path, ids):
    """Every head of three layers zeroed one at a time, mean ablation, steering, and noise-free scaling of a pattern, by logit difference."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    mary, john = (tokenizer(word)["input_ids"][0] for word in (" Mary", " John"))
    theirs = lens.load(smollm2_path, smollm2_torch)
    direction = torch.randn(576, generator=torch.Generator().manual_seed(1))
    vector = direction / direction.norm() * 8
    # Head by head: nine rows of one batch, each with a head of its own.
    def zero_heads(value, hook):
        for head in range(9):
            value[head, :, head] = 0
        return value

    with torch.no_grad():
        for site in (f"blocks.{layer}.attn.hook_z" for layer in (3, 15, 24)):
            expected = theirs.run_with_hooks(torch.tensor([ids] * 9), fwd_hooks=[(site, zero_heads)])[:, -1]
            zeros = [edit(site, heads=[head], rows=[head], zero=plan_pb2.Zero()) for head in range(9)]
            result = smollm2.forward(SMOLLM2, [CLEAN] * 9, interventions=zeros, metrics=[logit_difference([" Mary"], [" John"])])
            differences = [value for _, value in sorted(result.metric().items())]
            np.testing.assert_allclose(differences, expected[:, mary] - expected[:, john], atol=1e-3, rtol=0, err_msg=site)
            assert np.ptp(differences) > 1e-2

    cases = []  # (site, what TransformerLens's hook does to [batch, pos, ...], intervention)
    for layer in (5, 12, 20):
        site = f"blocks.{layer}.hook_resid_post"
        cases.append((site, lambda value, hook: value + 1.5 * vector, edit(site, add=plan_pb2.Add(value=tensor(vector.numpy()), scale=1.5))))

    def mean_ablate(value, hook):
        return value.mean(1, keepdim=True).expand_as(value)

    site = "blocks.8.hook_mlp_out"
    mean = plan_pb2.Mean(of_rows=plan_pb2.Mean.OfRows(rows=[1]))
    cases.append((site, mean_ablate, edit(site, mean=mean)))

    def halve(value, hook):
        value[:, 2] *= 0.5
        return value

    site = "blocks.10.attn.hook_pattern"
    cases.append((site, halve, edit(site, heads=[2], scale=plan_pb2.Scale(factor=0.5))))
    unit = vector / vector.norm()
    site = "blocks.14.hook_resid_pre"
    cases.append((site, lambda value, hook: value - (value @ unit)[..., None] * unit,
                  edit(site, project_out=plan_pb2.ProjectOut(directions=tensor(vector.numpy()[None])))))  # fmt: skip

    plain = float(np.subtract(*smollm2.forward(SMOLLM2, [CLEAN], logits=logits(tokens=[mary, john])).get("logits")[0]))
    moved = 0
    with torch.no_grad():
        for site, hook, message in cases:
            expected = theirs.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(site, hook)])[0, -1]
            difference = float(expected[mary] - expected[john])
            message.select.rows.append(0)
            result = smollm2.forward(SMOLLM2, [CLEAN, CLEAN], interventions=[message], metrics=[logit_difference([" Mary"], [" John"], rows=[0])])
            assert list(result.metric().values()) == [pytest.approx(difference, abs=1e-3)], site
            moved += abs(difference - plain) > 1e-2
    assert moved > len(cases) / 2


@pytest.mark.parametrize("site, over", [("hook_resid_pre", "position"), ("attn.hook_z", "head"), ("attn.hook_pattern", "head")])
def test_whole_sweeps_equal_transformer_lens(smollm2, smollm2_torch, smollm2_path, ids, site, over):
    """Every cell of the 30 x 14 and 30 x 9 sweeps. TransformerLens runs a layer's cells as one batch, each row with its own patch."""
    import fluoroscope as fs
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    corrupt = tokenizer(CORRUPT)["input_ids"]
    mary, john = (tokenizer(word)["input_ids"][0] for word in (" Mary", " John"))
    with fs.connect(smollm2.address) as client:
        got = client.model(SMOLLM2).sweep(CLEAN, CORRUPT, site, ("layer", over), fs.metrics.logit_diff(" Mary", " John"))
    theirs = lens.load(smollm2_path, smollm2_torch)
    count = 14 if over == "position" else 9
    assert got.values.shape == (30, count)
    with torch.no_grad():
        _, clean = theirs.run_with_cache(torch.tensor([ids]), names_filter=lambda name: name.endswith(site))
        for layer in range(30):
            name = f"blocks.{layer}.{site}"

            def put(value, hook, name=name):
                for row in range(count):
                    place = (row, slice(None), row) if site == "attn.hook_z" else (row, row)
                    value[place] = clean[name][0][place[1:]]
                return value

            last = theirs.run_with_hooks(torch.tensor([corrupt] * count), fwd_hooks=[(name, put)])[:, -1]
            assert np.abs(got.values[layer] - (last[:, mary] - last[:, john]).numpy()).max() <= 1e-3, name
