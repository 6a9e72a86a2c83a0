"""model.weights on SmolLM2: names, shapes, numpy's indexing, and that they are the weights the model runs with."""

import fluoroscope as fs
import numpy as np
import pytest


def test_names_and_shapes(model):
    weights = model.weights
    assert len(weights) == 30 * 9 + 3 and "blocks.3.attn.W_Q" in weights and "blocks.3.attn.b_Q" not in weights
    assert weights.info("blocks.3.attn.W_K") == fs.WeightInfo("blocks.3.attn.W_K", ("kv_head", "d_model", "d_head"), (3, 576, 64))
    assert list(weights)[0] == "embed.W_E" and "blocks.{l}.mlp.W_gate  [d_model 576, d_mlp 1536]" in repr(weights)
    with pytest.raises(KeyError, match=r"layer 30 of 'blocks\.30\.attn\.W_Q' lies behind the last; this model has 30, 0 to 29"):
        weights["blocks.30.attn.W_Q"]


def test_indexing_is_numpys(model):
    weights = model.weights
    whole = weights["blocks.3.attn.W_Q"]
    assert whole.shape == (9, 576, 64) and whole.dtype == np.float32
    cases = [(2,), (-1,), (slice(2, 4),), (slice(-2, None),), (slice(None), 5), ([0, 8, 3],), (2, slice(None), slice(0, 10)), (..., 7), (..., [2, 1]),
             (np.int64(4), np.array([1, -1])), (1, 2, 3), (slice(0, 100),)]  # fmt: skip
    for case in cases:
        got = weights["blocks.3.attn.W_Q", *case]
        np.testing.assert_array_equal(got, whole[case], err_msg=str(case))
        assert np.shape(got) == np.shape(whole[case])
    # Each list chooses along its own axis, and axes stay in their order; numpy pairs lists up, and moves axes in front when a number is apart from a list.
    np.testing.assert_array_equal(weights["blocks.3.attn.W_Q", 1, ..., [2, 1]], whole[1][:, [2, 1]])
    np.testing.assert_array_equal(weights["blocks.3.attn.W_Q", [0, 2], :, [1, 5]], whole[np.ix_([0, 2], range(576), [1, 5])])
    for case in [(9,), (-10,), (slice(3, 3),), (slice(None, None, 2),), (0, 0, 0, 0), (..., ...), ([],), ([[1]],), ("x",), (True,)]:
        with pytest.raises(IndexError):
            weights["blocks.3.attn.W_Q", *case]


def test_they_are_what_the_model_runs_with(model):
    """One head's q, and the logits, from the cache and the weights by hand."""
    text = "The capital of France is"
    logits, cache = model.run_with_cache(text, ["blocks.3.ln1.hook_normalized", "blocks.3.attn.hook_q", "ln_final.hook_normalized"], logits="last")
    weights = model.weights
    x = cache["blocks.3.ln1.hook_normalized"][0] * weights["blocks.3.ln1.w"]
    np.testing.assert_allclose(x @ weights["blocks.3.attn.W_Q", 4], cache["blocks.3.attn.hook_q"][0, :, 4], atol=2e-4)
    last = cache["ln_final.hook_normalized"][0, -1] * weights["ln_final.w"]
    paris = model.tokenize(" Paris")[0]
    columns = [paris, 0, 5]
    np.testing.assert_allclose(last @ weights["unembed.W_U", :, columns], logits[0, -1, columns], atol=5e-4)
    np.testing.assert_array_equal(weights["embed.W_E", paris], weights["unembed.W_U", :, paris])


def test_large_ones_that_are_copied_in_pieces(model):
    """SmolLM2's unembedding is its embedding, transposed: one is sent as it lies, the other copied a few lines at a time."""
    weights = model.weights
    embed = weights["embed.W_E"]
    assert embed.shape == (49152, 576)
    np.testing.assert_array_equal(weights["unembed.W_U"], embed.T)
    tokens = np.random.default_rng(0).integers(-49152, 49152, 4000)
    np.testing.assert_array_equal(weights["embed.W_E", tokens], embed[tokens])
    np.testing.assert_array_equal(weights["embed.W_E", tokens, [5, -1]], embed[tokens][:, [5, -1]])
    np.testing.assert_array_equal(weights["unembed.W_U", :, tokens], embed[tokens].T)
    np.testing.assert_array_equal(weights["unembed.W_U", 3:, tokens[:7]], embed[tokens[:7], 3:].T)
