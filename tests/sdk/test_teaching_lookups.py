"""Caches, hook tables, handles and weights are asked in the same ways, and say which key was meant; arrays of every library do, and what is no number does not."""

import asyncio
import warnings

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope.arrays import float32
from fluoroscope.names import hook_name

from .refusals import refused

torch = pytest.importorskip("torch")

TEXT = "The capital of France is"
SITE = "blocks.5.hook_resid_pre"


@pytest.fixture(scope="module")
def cache(model):
    return model.run_with_cache(TEXT, [SITE, "blocks.6.hook_resid_pre", "blocks.5.attn.hook_z"], logits=None)[1]


@pytest.mark.parametrize(("name", "short", "every"), [("resid_pre", "resid_pre", "blocks.*.hook_resid_pre"), ("hook_resid_pre", "resid_pre", "blocks.*.hook_resid_pre"),
                                                     ("z", "z", "blocks.*.attn.hook_z"), ("attn", "attn", "blocks.*.attn.hook_pattern")])  # fmt: skip
def test_a_layer_is_missing(model, cache, name, short, every):
    why = f"{name!r} is in every layer: say which, ({short!r}, 5); {every!r} is all of them"
    refused(lambda: cache[name], why, kind=KeyError)
    refused(lambda: model.run_with_cache(TEXT, name), why, kind=KeyError)
    refused(lambda: model.run_with_hooks(TEXT, [fs.zero(name)]), why, kind=KeyError)
    refused(lambda: model.put(name, [[0.0]]), why, kind=KeyError)
    with model.keep(TEXT, [SITE, "hook_embed"]) as handles:
        refused(lambda: handles[name], why, kind=KeyError)
    assert name not in cache


def test_near_names_of_a_cache(model, cache):
    refused(lambda: cache["blocks.5.attn.hook_zz"], "was not captured; this cache has", "; did you mean 'blocks.5.attn.hook_z'?", kind=KeyError)
    with model.keep(TEXT, [SITE, "hook_embed"]) as handles:
        refused(lambda: handles["resid_mid", 5], "was not kept; there are hook_embed, blocks.5", "did you mean 'blocks.5.hook_resid_pre'?", kind=KeyError)
    assert hook_name("scale") == "ln_final.hook_scale" and hook_name("embed") == "hook_embed"


def test_the_hook_table_takes_a_caches_keys(model):
    hooks = model.hooks()
    z = hooks["blocks.{l}.attn.hook_z"]
    assert hooks["z", 3] is hooks["z", -1] is hooks["blocks.29.attn.hook_z"] is hooks["blocks.-1.attn.hook_z"] is hooks["z"] is z
    assert hooks["scale", 3, "ln2"].name == "blocks.{l}.ln2.hook_scale" and hooks["embed"].name == "hook_embed" and hooks[0].name == "hook_embed"
    refused(lambda: hooks["blocks.99.attn.hook_z"], "layer 99 of 'blocks.99.attn.hook_z' lies behind the last; this model has 30, 0 to 29", kind=KeyError)
    refused(lambda: hooks["z", 30], "layer 30 of ('z', 30) lies behind the last", kind=KeyError)
    refused(lambda: hooks["z", -31], "layer -31 of ('z', -31) lies before the first layer of 30", kind=KeyError)
    refused(lambda: hooks["blocks.3.attn.hook_patern"], "no hook point 'blocks.3.attn.hook_patern'; did you mean 'blocks.{l}.attn.hook_pattern'?", kind=KeyError)
    refused(lambda: hooks["zzz"], "no hook point 'zzz'; there are hook_embed, ", kind=KeyError)


def test_weights_take_the_same_keys(model):
    weights = model.weights
    whole = weights["blocks.3.attn.W_Q"]
    for key in (("W_Q", 3), ("attn.W_Q", 3), ("W_Q", -27), ("blocks.-27.attn.W_Q",), ("W_Q", np.int64(3)), ("W_Q", torch.tensor(3))):
        np.testing.assert_array_equal(weights[key], whole)
    np.testing.assert_array_equal(weights["W_Q", 3, -1, :, :10], whole[-1, :, :10])
    np.testing.assert_array_equal(weights["w", 3, "ln2"], weights["blocks.3.ln2.w"])
    np.testing.assert_array_equal(weights["W_E", 5], weights["embed.W_E", 5])
    assert weights.info("W_E").name == "embed.W_E"
    for key, words in (
        ("W_Q", "'W_Q' is in every layer: say which, weights['W_Q', 5], or by its full name, 'blocks.5.attn.W_Q'"),
        (("w", 3), "'w' is in ln1 and ln2: say which, ('w', 3, 'ln1')"),
        (("W_Q", 30), "layer 30 of 'blocks.30.attn.W_Q' lies behind the last; this model has 30, 0 to 29"),
        ("blocks.-31.attn.W_Q", "layer -31 of 'blocks.-31.attn.W_Q' lies before the first layer of 30"),
        ("blocks.3.attn.W_q", "no weight 'blocks.3.attn.W_q'; did you mean 'blocks.3.attn.W_Q'?"),
        ("zzz", "no weight 'zzz'; there are embed.W_E, blocks.0.ln1.w, "),
        (3, "3 is not a weight's name"),
    ):
        refused(lambda key=key: weights[key], words, kind=KeyError)
    refused(lambda: weights["W_Q", 3, np.arange(9) > 4], "axis 'head' of blocks.3.attn.W_Q: masks of booleans are not taken", kind=IndexError)


def test_tensors_of_torch(model):
    """bfloat16, which numpy does not have, and tensors with a gradient."""
    for value in (torch.ones(576, dtype=torch.bfloat16), torch.ones(576, requires_grad=True), torch.ones(576, dtype=torch.float64), [1.0] * 576):
        np.testing.assert_array_equal(float32(value), np.ones(576, np.float32))
        result = model.run_with_hooks(TEXT, [fs.set(fs.at(SITE, positions=-1), value)], names_filter=SITE)
        np.testing.assert_array_equal(result.cache[SITE][0, -1], np.ones(576, np.float32))
    states = torch.randn(2, 576).to(torch.bfloat16)
    expected = model.run(start_at=SITE, value=states.float().numpy()).logits
    np.testing.assert_array_equal(model.run(start_at=SITE, value=states).logits, expected)
    with model.put(SITE, states) as handle:
        np.testing.assert_array_equal(handle.numpy(), states.float().numpy())
    ids = model.tokenize(TEXT)
    assert model.detokenize(torch.tensor(ids)) == TEXT == model.detokenize(torch.tensor([ids]))[0]
    token = model.to_single_token(" Paris")
    metrics = [fs.metrics.prob(one, name=name) for one, name in ((torch.tensor(token), "a"), (np.int64(token), "b"), (torch.tensor([token]), "c"), (" Paris", "d"))]
    values = model.run_with_hooks(TEXT, metrics=metrics).metrics
    assert len({float(values[name][0]) for name in "abcd"}) == 1


def test_what_are_no_numbers():
    refused(lambda: fs.set(SITE, None), "value is None; give a number or an array of numbers")
    refused(lambda: fs.set(SITE, [1.0, None]), "value has a None in it; give numbers only")
    refused(lambda: fs.project_out(SITE, None), "directions is None")
    refused(lambda: fs.metrics.readout(None), "direction is None")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(lambda: fs.add(SITE, 1e300), "value is 1e+300; numbers are float32, at most 3.403e+38")
        refused(lambda: fs.add(SITE, [1.0, -1e39]), "value has -1e+39 in it")
        refused(lambda: fs.set(SITE, 10**40), "value is 1e+40; numbers are float32")
        refused(lambda: fs.add(SITE, 1.0, scale=1e300), "scale is 1e+300")
        refused(lambda: fs.scale(SITE, None), "factor is None")
        refused(lambda: fs.noise(SITE, "a", seed=1), "stddev is 'a'; it must be a number")
        assert np.isinf(float32(np.inf)) and np.isnan(float32(np.nan))  # the server says where they are


def test_handles_are_no_arrays(model):
    with model.keep(TEXT, SITE) as handle:
        refused(lambda: np.asarray(handle), "a handle is on the server: handle.numpy() fetches its values", kind=TypeError)
        refused(lambda: np.asarray(fs.AsyncHandle(handle, None)), "await handle.numpy() fetches its values", kind=TypeError)
        assert handle.numpy().shape == (5, 576)
    with model.keep([TEXT], [SITE, "hook_embed"]) as handles:
        refused(lambda: np.asarray(handles), "handles[site].numpy() fetches the values of one", kind=TypeError)
        refused(lambda: np.asarray(fs.AsyncHandles(handles, None)), "await handles[site].numpy()", kind=TypeError)


def test_a_stack_of_another_width(model):
    _, cache = model.run_with_cache(TEXT, ["blocks.*.hook_resid_pre", "blocks.29.hook_resid_post", "ln_final.hook_scale"], logits=None)
    stack = cache.accumulated_resid()
    assert cache.logit_attrs(stack, " Paris").shape == stack.shape[:-1]
    refused(lambda: cache.logit_attrs(stack[..., :5], " Paris"), "residual_stack is [31, 1, 5, 5]; it must be [parts, ..., d_model], and d_model is 576 here")
    refused(lambda: cache.apply_ln_to_stack(stack[..., :5]), "residual_stack is [31, 1, 5, 5]")


def test_the_same_when_awaited(model):
    async def ask():
        awaited = fs.AsyncModel(model, fs.AsyncClient("localhost:1")._run)
        np.testing.assert_array_equal(await awaited.weight("W_Q", -1, 2), model.weights["blocks.29.attn.W_Q", 2])
        with pytest.raises(KeyError, match="'resid_pre' is in every layer"):
            await awaited.run_with_cache(TEXT, "resid_pre")
        assert awaited.hooks()["z", 3].name == "blocks.{l}.attn.hook_z"

    asyncio.run(ask())


def test_short_names_outside_the_layers(model):
    for asked in ("embed", ["embed"], [("embed",)], "hook_embed"):
        _, one = model.run_with_cache(TEXT, asked, logits=None)
        assert list(one) == ["hook_embed"], asked


def test_a_key_that_is_not_there_is_quickly_told(cache):
    assert SITE in cache and ("resid_pre", 5) in cache and ("resid_pre", 7) not in cache and "blocks.7.hook_resid_pre" not in cache and "embed" not in cache
