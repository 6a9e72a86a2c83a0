"""Errors that say what to write instead."""

import inspect
import re

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope import hints, suggest, sweep
from fluoroscope.selections import as_prompts

from .refusals import refused

CLEAN, CORRUPT = "The capital of France is", "The capital of Italy is"
DIFF = fs.metrics.logit_diff(" Paris", " Rome")
SITE = "blocks.5.hook_resid_pre"


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


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: m.sweep(CLEAN, CORRUPT, metric=DIFF, layer=5), ["sweep() does not take layer; did you mean layers? It takes clean, corrupt, site, over, metric"]),
        (lambda m: m.sweep(CLEAN, CORRUPT, metrics=[DIFF]), ["sweep() does not take metrics; did you mean metric? It takes"]),
        (lambda m: m.attribute(CLEAN, CORRUPT, metric=DIFF, step=3), ["attribute() does not take step; did you mean steps?"]),
        (lambda m: m.path_patch(CLEAN, CORRUPT, metric=DIFF, norm=1), ["path_patch() does not take norm; did you mean norms?", "mlps, norms"]),
        (lambda m: m.generate(CLEAN, do_sample=True), ["generate() does not take do_sample; over temperature=0 tokens are drawn. It takes prompts, max_new_tokens"]),
        (lambda m: m.generate(CLEAN, temprature=1, zzz=2), ["generate() does not take temprature, zzz; did you mean temperature?"]),
        (lambda m: m.run_with_hooks(CLEAN, fwd_hooks=[]), ["run_with_hooks() does not take fwd_hooks; edits are data here: interventions=[fs.patch(...), fs.zero(...)]. It"]),
        (lambda m: m.run_with_cache(CLEAN, return_type="loss"), ["run_with_cache() does not take return_type; choose with logits= and metrics=[...]. It takes"]),
        (lambda m: m.run_with_cache(CLEAN, name_filter="x"), ["did you mean names_filter?"]),
        (lambda m: m.keep(CLEAN, SITE, layer=3), ["keep() does not take layer; did you mean layers? It takes prompts, names_filter, ttl"]),
        (lambda m: m.put(SITE, [], token=3), ["put() does not take token; did you mean tokens?"]),
        (lambda m: m.logit_lens(CLEAN, position=3), ["logit_lens() does not take position; did you mean positions?"]),
        (lambda m: m.logit_attrs(CLEAN, " Paris", positions=3), ["logit_attrs() does not take positions; did you mean position?"]),
        (lambda m: m.causal_trace(CLEAN, "France", windows=3), ["causal_trace() does not take windows; did you mean window?"]),
        (lambda m: m.top_tokens(CLEAN, n=3), ["top_tokens() does not take n. It takes prompts, k, position"]),
    ],
)  # fmt: skip
def test_arguments_that_are_not_there(model, ask, words):
    refused(lambda: ask(model), *words, kind=TypeError)


def test_names_of_other_libraries(model):
    _, cache = model.run_with_cache(CLEAN, SITE, logits=None)
    for owner, name, hint in (
        (model, "to_tokens", "'Model' object has no attribute 'to_tokens'; here it is model.tokenize(text)"),
        (model, "to_string", "here it is model.detokenize(ids)"),
        (model, "to_single_str_token", "here it is model.to_str_tokens([id])[0]"),
        (model, "cfg", "here it is model.info"),
        (model, "W_Q", 'here it is model.weights["W_Q", layer]'),
        (cache, "remove_batch_dim", "here it is remove_batch_dim=True of model.run_with_cache"),
        (cache, "get_full_resid_decomposition", "here it is cache.decompose_resid and cache.stack_head_results"),
        (fs.AsyncModel(model, None), "to_tokens", "'AsyncModel' object has no attribute 'to_tokens'; here it is model.tokenize(text)"),
        (fs.AsyncModel(model, None), "W_Q", 'here it is await model.weight("blocks.3.attn.W_Q")'),
        (fs.AsyncModel(model, None), "weights", 'here it is await model.weight("blocks.3.attn.W_Q"), and their names await model.weight_infos()'),
    ):
        refused(lambda owner=owner, name=name: getattr(owner, name), hint, kind=AttributeError)
        assert not hasattr(owner, name)
    for owner in (model, fs.AsyncModel(model, None)):
        refused(lambda owner=owner: owner(CLEAN), "object is not callable; a model is not called here: model.run_with_cache(prompts) gives", kind=TypeError)
    refused(lambda: model.nonsense, "'Model' object has no attribute 'nonsense'", kind=AttributeError)


def test_every_hint_names_something_that_exists(model):
    """A hint of what is not there would be worse than none."""
    _, cache = model.run_with_cache(CLEAN, SITE, logits=None)
    for table, owner in ((hints.MODEL, model), (hints.ASYNC_MODEL, fs.AsyncModel(model, None)), (hints.CACHE, cache)):
        for name, hint in table.items():
            assert not hasattr(type(owner), name), name
            for word, attribute in re.findall(r"\b(model|cache)\.(\w+)", hint):
                holder = {"model": type(owner) if table is not hints.CACHE else fs.Model, "cache": fs.ActivationCache}[word]
                assert hasattr(holder, attribute) or attribute == "info", (name, attribute)
    everything = {name for method in (fs.Model.run_with_hooks, fs.Model.run, fs.Model.generate, fs.Model.sweep) for name in inspect.signature(method).parameters}
    for name, hint in hints.KEYWORDS.items():
        assert name not in everything
        assert all(argument in everything for argument in re.findall(r"(\w+)=", hint)), hint


def test_warnings_point_to_the_line_that_called(model):
    with pytest.warns(fs.FluoroscopeWarning, match="changes nothing") as caught:
        model.run_with_hooks(CLEAN, [fs.patch(SITE, source=CLEAN)])
    assert {warning.filename for warning in caught} == {__file__}


def test_the_same_errors_when_awaited(model):
    import asyncio

    async def ask():
        awaited = fs.AsyncModel(model, fs.AsyncClient("localhost:1")._run)
        with pytest.raises(ValueError, match=re.escape("did you mean ('resid_pre', 5)?")):
            await awaited.run_with_cache(CLEAN, ["resid_pre", 5])
        with pytest.raises(ValueError, match="has a layer in it"):
            await awaited.sweep(CLEAN, CORRUPT, SITE, metric=DIFF)

    asyncio.run(ask())
