"""The SDK against the real server on SmolLM2: DESIGN.md's surfaces, with real values."""

import warnings

import fluoroscope as fs
import numpy as np
import pytest

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
DIFF = fs.metrics.logit_diff(" Mary", " John")


def logit_diff(model, prompt, interventions=(), **options) -> float:
    return float(model.run_with_hooks(prompt, interventions, metrics=[DIFF], logits=None, **options).metrics[DIFF][0])


def test_models_and_info(client, model):
    assert [info.name for info in client.models()] == ["smollm2-135m"]
    info = model.info
    assert (info.family, info.layers, info.d_model, info.heads, info.kv_heads, info.d_head, info.d_mlp) == ("llama", 30, 576, 9, 3, 64, 1536)
    assert (info.vocabulary, info.context, info.parameters, info.dtype) == (49152, 8192, 134_515_008, "f32")
    assert not info.default_bos
    assert "134.5 M parameters" in repr(model)
    with pytest.raises(fs.NotFoundError, match="smollm2-135m"):
        client.model("gpt2")


def test_hooks_print_as_a_table(model):
    hooks = model.hooks()
    text = repr(hooks)
    assert "blocks.{l}.hook_resid_pre" in text and "[pos, d_model 576]" in text
    assert "Not in this model:\n  hook_pos_embed: " in text
    assert hooks["blocks.5.attn.hook_k"].shape == (-1, 3, 64)
    names = hooks.names()
    assert names[0] == "hook_embed" and names[-1] == "ln_final.hook_normalized" and "hook_pos_embed" not in names
    assert sum(name.endswith(".hook_resid_pre") for name in names) == 30


def test_tokens(model):
    ids = model.tokenize(CLEAN)
    assert len(ids) == 14 and all(isinstance(i, int) for i in ids)
    texts = model.to_str_tokens(CLEAN)
    assert "".join(texts) == CLEAN and texts[9] == " John"
    assert model.to_str_tokens(ids) == texts
    assert model.detokenize(ids) == CLEAN
    assert model.detokenize([ids, ids[:2]]) == [CLEAN, "When John"]
    assert model.tokenize([CLEAN, CORRUPT])[0] == ids
    assert model.tokenize(CLEAN, bos="always") == [1, *ids]
    assert model.tokenize("<|im_start|>", parse_special_tokens=True) == [1]
    assert len(model.tokenize("<|im_start|>")) > 1


def test_differing_positions(model):
    assert model.differing_positions(CLEAN, CORRUPT) == [9]
    assert model.differing_positions(CLEAN, CORRUPT, bos="always") == [10]
    assert model.differing_positions([CLEAN, CLEAN], [CORRUPT, CLEAN]) == [[9], []]
    with pytest.raises(ValueError) as caught:
        model.differing_positions(CLEAN, "When John and Mary went to the big shops, Mary gave the bag to")
    assert "14 and 15 tokens" in str(caught.value) and "position 7" in str(caught.value)
    with pytest.raises(ValueError, match="pair 1"):
        model.differing_positions([CLEAN, "a"], [CLEAN, "a b c"])


def test_predictions(model):
    top = model.top_tokens([CLEAN, "The capital of France is"], k=5)
    assert top[0][0].token == " Mary" and top[0][0].probability == pytest.approx(0.84, abs=0.01)
    assert top[1][0].token == " Paris" and top[1][0].probability == pytest.approx(0.77, abs=0.01)
    assert [t.logprob for t in top[0]] == sorted((t.logprob for t in top[0]), reverse=True)
    single = model.top_tokens(CLEAN, k=3)
    assert repr(single).splitlines()[0].split()[:3] == [f"{single[0].probability:.4f}", "'", "Mary'"]


def test_run_with_cache_has_transformer_lens_shapes(model):
    logits, cache = model.run_with_cache(CLEAN, names_filter=["blocks.*.hook_resid_pre", "blocks.*.attn.hook_pattern"])
    assert logits.shape == (1, 14, 49152) and logits.dtype == np.float32
    assert len(cache) == 60
    assert cache["blocks.5.hook_resid_pre"].shape == (1, 14, 576)
    assert cache["resid_pre", 5] is cache["blocks.5.hook_resid_pre"]
    assert cache["pattern", -1].shape == (1, 9, 14, 14)
    np.testing.assert_allclose(cache["pattern", 3].sum(-1), 1, atol=1e-5)
    assert not np.triu(cache["pattern", 3][0, 0], 1).any()
    assert cache.tokens.tolist() == [model.tokenize(CLEAN)]
    assert cache.str_tokens == [model.to_str_tokens(CLEAN)]
    assert cache.provenance.model == "smollm2-135m" and cache.provenance.weights_sha256 == model.info.weights_sha256
    assert logits[0, -1].argmax() == model.tokenize(" Mary")[0]
    assert "blocks.{0..29}.attn.hook_pattern" in repr(cache)
    _, flat = model.run_with_cache(CLEAN, ("resid_pre", 5), remove_batch_dim=True, logits=None)
    np.testing.assert_allclose(flat["resid_pre", 5], cache["resid_pre", 5][0], rtol=1e-4, atol=5e-2)
    assert flat.str_tokens == cache.str_tokens[0] and flat.tokens.shape == (14,)


def test_everything_by_default_is_what_transformer_lens_keeps(model):
    _, cache = model.run_with_cache("Hello there", logits=None)
    assert ("resid_post", 29) in cache and ("scale", 0, "ln1") in cache and "ln_final.hook_scale" in cache and "hook_embed" in cache
    assert ("result", 0) not in cache and ("q_input", 0) not in cache
    np.testing.assert_allclose(cache["resid_pre", 3] + cache["attn_out", 3] + cache["mlp_out", 3], cache["resid_post", 3], atol=1e-3)


def test_narrowing(model):
    _, cache = model.run_with_cache(
        CLEAN, lambda name: name.endswith("hook_z"), positions=[-1, 9], layers=[3, -1], heads=[2, 5], logits=None
    )
    assert list(cache) == ["blocks.3.attn.hook_z", "blocks.29.attn.hook_z"]
    assert cache["z", 3].shape == (1, 2, 2, 64)
    assert cache.positions(("z", 3)) == ((9, 13),) and cache.heads(("z", 3)) == (2, 5)
    _, whole = model.run_with_cache(CLEAN, "blocks.3.attn.hook_z", logits=None)
    np.testing.assert_allclose(cache["z", 3], whole["z", 3][:, [9, 13]][:, :, [2, 5]], atol=1e-5)


def test_reductions(model):
    _, whole = model.run_with_cache(CLEAN, "blocks.3.mlp.hook_post", logits=None)
    values = whole["post", 3]
    _, last = model.run_with_cache(CLEAN, "blocks.3.mlp.hook_post", reduction="last", logits=None)
    np.testing.assert_allclose(last["post", 3], values[:, -1:], atol=1e-5)
    _, top = model.run_with_cache(CLEAN, "blocks.3.mlp.hook_post", reduction=fs.TopK(4), logits=None)
    assert top["post", 3].indices.tolist() == np.argsort(-values, axis=-1, kind="stable")[..., :4].tolist()
    directions = np.random.default_rng(0).standard_normal((3, 1536)).astype(np.float32)
    _, dot = model.run_with_cache(CLEAN, "blocks.3.mlp.hook_post", reduction=fs.Dot(directions), logits=None)
    np.testing.assert_allclose(dot["post", 3], values @ directions.T, rtol=1e-4, atol=1e-4)


def test_logits_choices(model):
    everything, _ = model.run_with_cache(CLEAN, ())
    last, _ = model.run_with_cache(CLEAN, (), logits="last")
    assert last.shape == (1, 1, 49152)
    np.testing.assert_allclose(last, everything[:, -1:], atol=5e-4)
    mary, john = (model.tokenize(name)[0] for name in (" Mary", " John"))
    some, _ = model.run_with_cache(CLEAN, (), logits=fs.Logits(positions=[3, -1], tokens=[" John", mary]))
    np.testing.assert_allclose(some, everything[:, [3, 13]][:, :, [john, mary]], atol=5e-4)


def test_prompts_of_unequal_length_are_ragged_and_as_alone(model):
    prompts = [CLEAN, "The capital of France is"]
    logits, cache = model.run_with_cache(prompts, "blocks.7.hook_resid_post")
    assert isinstance(logits, fs.Ragged) and logits.shapes == [(14, 49152), (5, 49152)]
    assert cache["resid_post", 7].shapes == [(14, 576), (5, 576)]
    assert cache["resid_post", 7].padded().shape == (2, 14, 576)
    assert [len(row) for row in cache.str_tokens] == [14, 5]
    for row, prompt in enumerate(prompts):
        alone, alone_cache = model.run_with_cache(prompt, "blocks.7.hook_resid_post")
        np.testing.assert_allclose(logits[row], alone[0], atol=5e-4)
        a, b = cache["resid_post", 7][row], alone_cache["resid_post", 7][0]
        assert (np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)).max() < 2e-5
    last, _ = model.run_with_cache(prompts, (), logits="last")
    assert last.shape == (2, 1, 49152)  # equal sizes make an array


def test_the_logit_difference_with_and_without_bos(model):
    assert logit_diff(model, CLEAN) == pytest.approx(3.12, abs=0.01)
    assert logit_diff(model, CLEAN, bos="always") == pytest.approx(4.62, abs=0.01)


def test_one_cell_of_activation_patching(model):
    where = model.differing_positions(CLEAN, CORRUPT)
    clean, corrupt = logit_diff(model, CLEAN), logit_diff(model, CORRUPT)
    assert corrupt < -1
    # Before the first layer the position is all that differs, so the answer comes back whole; before the last, it has long moved on.
    first = logit_diff(model, CORRUPT, [fs.patch("blocks.0.hook_resid_pre", source=CLEAN, positions=where)])
    assert first == pytest.approx(clean, abs=1e-3)
    middle = logit_diff(model, CORRUPT, [fs.patch("blocks.12.hook_resid_pre", source=CLEAN, positions=where)])
    assert (middle - corrupt) / (clean - corrupt) > 0.8
    late = logit_diff(model, CORRUPT, [fs.patch(("resid_pre", -1), source=CLEAN, positions=where)])
    assert late == pytest.approx(corrupt, abs=0.2)
    result = model.run_with_hooks(CORRUPT, [fs.patch("blocks.0.hook_resid_pre", source=CLEAN, positions=where)], metrics=[DIFF])
    assert result.logits.shape == (1, 1, 49152)
    assert result.logits[0, 0].argmax() == model.tokenize(" Mary")[0]
    assert result.warnings == () and "logit_diff" in repr(result)
    top = model.top_tokens(CORRUPT, k=1, interventions=[fs.patch("blocks.0.hook_resid_pre", source=CLEAN, positions=where)])
    assert top[0].token == " Mary"


def test_a_patched_value_is_what_the_run_then_has(model):
    patch = fs.patch(("z", 10), source=CLEAN, heads=[4], positions=[13])
    edited = model.run_with_hooks(CORRUPT, [patch], names_filter="blocks.10.attn.hook_z", logits=None).cache["z", 10]
    _, clean = model.run_with_cache(CLEAN, "blocks.10.attn.hook_z", logits=None)
    _, corrupt = model.run_with_cache(CORRUPT, "blocks.10.attn.hook_z", logits=None)
    expected = corrupt["z", 10].copy()
    expected[0, 13, 4] = clean["z", 10][0, 13, 4]
    np.testing.assert_allclose(edited, expected, atol=1e-4)


def test_a_column_of_cells_in_one_request_equals_single_cells(model):
    layers = [0, 10, 20]
    patches = [fs.patch(("resid_pre", layer), source=CLEAN, positions=[9], rows=row) for row, layer in enumerate(layers)]
    together = model.run_with_hooks([CORRUPT] * 3, patches, metrics=[DIFF], logits=None).metrics[DIFF]
    alone = [logit_diff(model, CORRUPT, [fs.patch(("resid_pre", layer), source=CLEAN, positions=[9])]) for layer in layers]
    np.testing.assert_allclose(together, alone, atol=5e-4)


def test_answers_and_sources_per_prompt(model):
    prompts, sources = [CLEAN, CORRUPT], [CORRUPT, CLEAN]
    diff = fs.metrics.logit_diff([" Mary", " John"], [" John", " Mary"], per_prompt=True)
    plain = model.run_with_hooks(prompts, metrics=[diff], logits=None).metrics[diff]
    assert plain.shape == (2,) and (plain > 0).all()
    where = model.differing_positions(sources, prompts)
    swapped = model.run_with_hooks(prompts, [fs.patch(("resid_pre", 0), source=sources, positions=where)], metrics=[diff], logits=None).metrics[diff]
    np.testing.assert_allclose(swapped, -plain[::-1], atol=1e-3)


def test_metrics_at_positions(model):
    diff = fs.metrics.logit_diff(" Mary", " John", positions=[-2, -1], name="two")
    result = model.run_with_hooks([CLEAN, "The capital of France is"], metrics=[diff, DIFF], logits=fs.Logits("all", [" Mary", " John"]))
    assert result.metrics[diff].shape == (2, 2) and list(result.metrics) == ["two", "logit_diff"]
    for row in range(2):
        expected = result.logits[row][-2:, 0] - result.logits[row][-2:, 1]
        np.testing.assert_allclose(result.metrics["two"][row], expected, atol=5e-4)
    np.testing.assert_allclose(result.metrics[diff][:, 1], result.metrics[DIFF], atol=1e-6)


@pytest.mark.parametrize(("source", "positions"), [(CORRUPT, [9]), (CLEAN, [3]), (CLEAN, slice(0, 9))])
def test_a_patch_that_changes_nothing_warns(model, source, positions):
    with pytest.warns(fs.FluoroscopeWarning, match="changes nothing") as warned:
        result = model.run_with_hooks(CORRUPT, [fs.patch(("resid_pre", 5), source=source, positions=positions)], metrics=[DIFF], logits=None)
    assert len(warned) == 1 and warned[0].filename == __file__
    assert result.warnings == (str(warned[0].message),)
    assert result.metrics[DIFF][0] == pytest.approx(logit_diff(model, CORRUPT), abs=5e-4)


def test_a_patch_that_restores_what_another_changed_does_not_warn(model):
    """Freezing: everything after the first attention layer's heads is put back to the run's own values, so only the direct path is left."""
    patches = [fs.patch(("resid_pre", 0), source=CLEAN, positions=[9]), fs.patch(("attn_out", 5), source=CORRUPT)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = logit_diff(model, CORRUPT, patches)
    assert abs(frozen - logit_diff(model, CORRUPT, patches[:1])) > 1e-3


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.run_with_cache("x", names_filter=["blocks.99.hook_resid_pre"]), fs.NotFoundError, ["blocks.99.hook_resid_pre", "29"]),
        (lambda m: m.run_with_cache("x", names_filter="hook_pos_embed"), fs.FailedPreconditionError, ["position"]),
        (lambda m: m.run_with_cache("x", names_filter="hook_nothing*"), fs.NotFoundError, ["hook_nothing*"]),
        (lambda m: m.run_with_cache("", names_filter="hook_embed"), fs.InvalidArgumentError, ["empty"]),
        (lambda m: m.run_with_cache([49152], names_filter="hook_embed"), fs.InvalidArgumentError, ["49152", "49151"]),
        (lambda m: m.run_with_cache("x", names_filter="hook_embed", positions=5), fs.InvalidArgumentError, ["5"]),
        (lambda m: m.run_with_cache("x", "blocks.0.attn.hook_z", heads=9), fs.InvalidArgumentError, ["9", "8"]),
        (lambda m: m.run_with_hooks("x", metrics=[fs.metrics.logit_diff(" Marytown", " John")]), fs.InvalidArgumentError,
         ["' Marytown' is 2 tokens (' Mary', 'town'); exactly one is needed"]),
    ],
)
def test_what_is_wrong_is_said_with_what_is_allowed(model, call, error, words):
    with pytest.raises(error) as caught:
        call(model)
    assert isinstance(caught.value, fs.FluoroscopeError)
    for word in words:
        assert word in str(caught.value)
    assert logit_diff(model, CLEAN) == pytest.approx(3.12, abs=0.01)  # and the next request is served


def test_estimate(model):
    small = model.estimate(CLEAN, "blocks.*.hook_resid_pre")
    assert small.tokens == 14 and small.reply_bytes == 30 * 14 * 576 * 4 and small.waves == 1
    assert 0 < small.peak_bytes < small.budget_bytes
    patched = model.estimate(CORRUPT, interventions=[fs.patch(("resid_pre", 12), source=CLEAN, positions=[9])], metrics=[DIFF])
    assert patched.waves == 2 and patched.tokens == 28 and patched.reply_bytes == 0
    assert "MiB" in repr(small) and "GFLOP" in repr(small)


def test_deadline(client, model):
    with pytest.raises(fs.DeadlineExceededError):
        model.run_with_cache([CLEAN * 30] * 8, (), logits="last", timeout=0.01)
    assert logit_diff(model, CLEAN) == pytest.approx(3.12, abs=0.01)


def test_isolated_runs_repeat_bit_for_bit(model):
    runs = [model.run_with_cache([CLEAN, CORRUPT], "blocks.29.hook_resid_post", isolated=True) for _ in range(2)]
    assert runs[0][1].provenance == runs[1][1].provenance and runs[0][1].provenance.isolated
    assert runs[0][0].tobytes() == runs[1][0].tobytes()
    assert runs[0][1]["resid_post", 29].tobytes() == runs[1][1]["resid_post", 29].tobytes()


def test_a_request_over_the_receive_limit_says_what_to_do(model):
    """gRPC's own words are two numbers. Over loopback, with the default limit; a stream and a call with one reply."""
    text = "x" * (5 << 20)
    for call in (lambda: model.run_with_hooks(text, logits=None), lambda: model.tokenize(text), lambda: model.generate(text)):
        with pytest.raises(fs.ResourceExhaustedError, match=r"the request has 52429\d\d bytes \(5\.0 MiB\), and the server takes at most 4194304") as caught:
            call()
        for part in ("(4.0 MiB)", "model.put", "limits.max_receive_mib"):
            assert part in caught.value.message
    assert model.tokenize("The capital") == [504, 3575], "the connection still works"
