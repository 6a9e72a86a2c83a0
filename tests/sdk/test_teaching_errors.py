"""Errors that say what to write instead."""

import re

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope import suggest, sweep
from fluoroscope.selections import as_prompts

CLEAN, CORRUPT = "The capital of France is", "The capital of Italy is"
DIFF = fs.metrics.logit_diff(" Paris", " Rome")
SITE = "blocks.5.hook_resid_pre"


def refused(ask, *words, kind=ValueError):
    """The message of a refusal holds all of these."""
    with pytest.raises(kind) as caught:
        ask()
    message = caught.value.args[0]
    assert all(word in message for word in words), message


def test_a_name_that_is_not_known():
    known = ["layer", "position", "head"]
    assert suggest.unknown("over", "pos", known) == "over: 'pos' is not one of 'layer', 'position', 'head'; did you mean 'position'?"
    assert suggest.unknown("over", "layers", known).endswith("; did you mean 'layer'?")
    assert suggest.unknown("over", "Head", known).endswith("; did you mean 'head'?")
    assert suggest.unknown("over", "zzz", known) == "over: 'zzz' is not one of 'layer', 'position', 'head'"
    assert suggest.unknown("over", 3, known) == "over: 3 is not one of 'layer', 'position', 'head'"
    assert suggest.listed(f"n{i}" for i in range(20)).endswith("n11, ... (20 in all)")


@pytest.mark.parametrize("make", [fs.patch, fs.swap_subspace, fs.interpolate])
def test_values_are_no_sources(model, make):
    more = {fs.swap_subspace: [np.ones(576)], fs.interpolate: [0.5]}.get(make, [])
    _, cache = model.run_with_cache(CLEAN, "blocks.*.hook_resid_pre", logits=None)
    refused(lambda: make(SITE, *more, source=cache), "source is ActivationCache", "model.keep, model.put", "fs.set(where, cache[site][0])")
    for values in (cache[SITE], cache[SITE][0]):
        refused(lambda values=values: make(SITE, *more, source=values), f"source is an array of float32 {list(values.shape)}", "fs.set(where, value)", "fs.Start(at, value)")
    with model.keep(CLEAN, ["blocks.5.hook_resid_pre", "blocks.6.hook_resid_pre"]) as handles:
        refused(lambda: make(SITE, *more, source=handles), "source is Handles", "source=handles[site]")


def test_a_prompt_says_once_where_it_is_wrong():
    refused(lambda: as_prompts([[[1.5]]]), "prompt 0 is a list of prompts; one level of lists is enough")
    refused(lambda: as_prompts(["a", [1, 2.5]]), "prompt 1: a prompt is text or a list of token ids, and 2.5 is no token id")
    refused(lambda: as_prompts(np.ones((1, 2, 3), np.float32)), "not an array of float32 [1, 2, 3]; activations to begin with are fs.Start(at, value)")
    refused(lambda: as_prompts({"a": 1}), "not dict")


def test_hook_names(model):
    run = model.run_with_cache
    refused(lambda: run(CLEAN, ["resid_pre", 5]), "names_filter: 5 is not a hook name; did you mean ('resid_pre', 5)?")
    refused(lambda: run(CLEAN, [5]), "names_filter: 5 is not a hook name; model.hooks() shows them")
    refused(lambda: run(CLEAN, 5), "names_filter is 5; give hook names")
    refused(lambda: run(CLEAN, ("scale", 5, "ln3")), "part of a block: 'ln3' is not one of", kind=KeyError)
    refused(lambda: run(CLEAN, ("resid_pre", -31)), "layer -31 of ('resid_pre', -31) lies before the first layer of 30", kind=KeyError)
    refused(lambda: run(CLEAN, "blocks.-31.hook_resid_pre"), "layer -31 of 'blocks.-31.hook_resid_pre' lies before the first layer of 30", kind=KeyError)
    _, cache = run(CLEAN, ["blocks.-1.hook_resid_pre", ("resid_pre", np.int64(-2))], logits=None)
    assert list(cache) == ["blocks.28.hook_resid_pre", "blocks.29.hook_resid_pre"]
    assert cache["blocks.-1.hook_resid_pre"] is cache["resid_pre", -1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"site": "blocks.5.hook_resid_pre"}, "site: 'blocks.5.hook_resid_pre' has a layer in it; leave the layer out: 'hook_resid_pre', layers=5"),
        ({"site": ("resid_pre", 5)}, "site: ('resid_pre', 5) has a layer in it; leave the layer out: 'resid_pre', layers=5"),
        ({"site": [("z", 5)]}, "leave the layer out: 'z', layers=5"),
        ({"site": None}, "site: None is not a site; give a hook point's name"),
        ({"over": "pos"}, "over: 'pos' is not one of 'site', 'layer', 'position', 'head', 'unit', 'second_layer', 'second_head', 'source'; did you mean 'position'?"),
        ({"direction": "denoising"}, "direction: 'denoising' is not one of 'denoise', 'noise'; did you mean 'denoise'?"),
        ({"metric": None}, "metric: None is not a metric: use fs.metrics.logit_diff(right, wrong) or another of fs.metrics"),
        ({"metric": len}, "is not a metric: use fs.metrics.logit_diff(right, wrong) or another of fs.metrics; the server computes metrics, so functions do not do"),
        ({"metric": "logit_diff"}, "metric: 'logit_diff' is not a metric"),
        ({"source_positions": "align"}, "source_positions is 'align'; give a list of positions for each pair: model.align(source, base) makes one"),
        ({"source_positions": [0, 1.5]}, "source_positions: 1.5 is not a whole number"),
    ],
)
def test_sweeps(arguments, words):
    refused(lambda: sweep.build("m", **({"clean": CLEAN, "corrupt": CORRUPT, "metric": DIFF} | arguments)), words)


def test_other_choices(model):
    refused(lambda: model.attribute(CLEAN, CORRUPT, metric=DIFF, method="atp_star"), "method: 'atp_star' is not one of 'atp', 'ig'")
    refused(lambda: model.path_patch(CLEAN, CORRUPT, "head", "logits", DIFF), "senders: 'head' is not one of", "did you mean 'heads'?")
    refused(lambda: model.logit_attrs(CLEAN, " Paris", by="heads"), "by: 'heads' is not one of 'component', 'head', 'neuron'; did you mean 'head'?")
    refused(lambda: model.logit_lens(CLEAN, site="blocks.3.hook_resid_post"), "has a layer in it; leave the layer out: 'hook_resid_post', layers=3")
    refused(lambda: model.run_with_hooks(CLEAN, metrics=[lambda logits: 0]), "metrics: <function", "is not a metric")
    refused(lambda: model.run_with_cache(CLEAN, SITE, grad_of=len), "grad_of: <built-in function len> is not a metric")
    refused(lambda: fs.swap_subspace(SITE, np.ones(3), source="a", part="row"), "part: 'row' is not one of", "did you mean 'row_space'?")


def test_the_same_errors_when_awaited(model):
    import asyncio

    async def ask():
        awaited = fs.AsyncModel(model, fs.AsyncClient("localhost:1")._run)
        with pytest.raises(ValueError, match=re.escape("did you mean ('resid_pre', 5)?")):
            await awaited.run_with_cache(CLEAN, ["resid_pre", 5])
        with pytest.raises(ValueError, match="has a layer in it"):
            await awaited.sweep(CLEAN, CORRUPT, SITE, metric=DIFF)

    asyncio.run(ask())
