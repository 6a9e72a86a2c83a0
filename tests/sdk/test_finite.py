"""Numbers that are none are told: warnings of runs, and results that still print."""

from __future__ import annotations

import warnings

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope.results import TopToken, TopTokens

PROMPT = "When John and Mary went to the shops, John gave the bag to"
BIG = fs.scale("blocks.5.hook_resid_pre", 1e38)
DIFF, KL = fs.metrics.logit_diff(" Mary", " John"), fs.metrics.kl()


def test_a_run_whose_numbers_are_too_large_warns(model):
    with pytest.warns(fs.FluoroscopeWarning, match="^NaN or infinite: logits, logit_diff, kl of prompt 0; an intervention makes") as caught:
        got = model.run_with_hooks(PROMPT, [BIG], metrics=[DIFF, KL])
    assert caught[0].filename == __file__
    assert np.isnan(got.metrics[DIFF]).all() and any("infinite" in line for line in got.warnings)
    with pytest.warns(fs.FluoroscopeWarning, match="^NaN or infinite: logit_diff of prompt 1; an intervention"):
        model.run_with_hooks([PROMPT, PROMPT], [fs.scale(fs.at("blocks.5.hook_resid_pre", rows=1), 1e38)], metrics=[DIFF], logits=None)


def test_its_tokens_print(model):
    with pytest.warns(fs.FluoroscopeWarning, match="^NaN or infinite: logits of prompt 0; an intervention") as caught:
        got = model.top_tokens(PROMPT, 3, interventions=[BIG])
    assert caught[0].filename == __file__ and repr(got).count("nan") == 3
    assert repr(TopTokens([TopToken(" a", 1, float("nan"), float("nan")), TopToken(" b", 2, 0.0, 0.0)])).splitlines() == [
        "     nan  ' a'", f"  1.0000  ' b'  {'█' * 40}",
    ]  # fmt: skip


def test_tokens_of_several_prompts_print(model):
    got = model.top_tokens([PROMPT, "The capital of France is"], 2)
    assert isinstance(got, list) and repr(got) == f"prompt 0\n{got[0]!r}\n\nprompt 1\n{got[1]!r}"


def test_a_sweep_whose_numbers_are_too_large_warns(model):
    noise = fs.noise("hook_embed", 3e38, seed=0)
    with pytest.warns(fs.FluoroscopeWarning, match="^NaN or infinite: 2 of 2 cells$"):
        got = model.sweep(PROMPT, PROMPT, "mlp_out", "layer", DIFF, layers=[20, 21], corrupt_with=[noise])
    assert np.isnan(got.values).all() and got.top(3) == [] and got.plot().data[0].type == "scatter"
    with warnings.catch_warnings():
        warnings.simplefilter("error", fs.FluoroscopeWarning)
        model.path_patch(PROMPT, PROMPT.replace("John gave", "Mary gave"), [(5, 0), (2, 1)], [("q", 3, 0)], DIFF)  # a pair that cannot exist is no such cell


def test_a_usual_run_does_not(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", fs.FluoroscopeWarning)
        got = model.run_with_hooks([PROMPT, "Mary"], [fs.scale("blocks.5.hook_resid_pre", 1e3)], metrics=[DIFF], logits="all")
    assert got.warnings == () and np.isfinite(got.metrics[DIFF]).all()
