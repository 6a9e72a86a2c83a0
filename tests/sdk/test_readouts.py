"""model.logit_lens and model.logit_attrs on SmolLM2: results, tables and pictures."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest

PROMPT = "When John and Mary went to the shops, John gave the bag to"


@pytest.fixture(scope="module")
def lens(model):
    return model.logit_lens(PROMPT)


def test_the_answer_appears_in_the_last_layers(model, lens):
    assert lens.tokens.shape == (30, 14, 5) and lens.str_tokens[9] == " John"
    best = lens.top(-1)[0]
    assert best.token == " Mary" and best.probability == pytest.approx(model.top_tokens(PROMPT, k=1)[0].probability, abs=1e-3)
    assert lens.top(0, 13)[0].token != " Mary"
    assert (np.diff(lens.logprobs, axis=-1) <= 0).all() and lens.probs.max() <= 1
    assert "logit lens: the final norm" in lens.convention


def test_a_followed_token(model):
    got = model.logit_lens(PROMPT, tokens=[" Mary", " John"], positions="last")
    assert got.chosen and got.texts[0, 0].tolist() == [" Mary", " John"] and got.positions == (13,)
    assert got.logprobs[29, 0, 0] > got.logprobs[29, 0, 1] and got.logprobs[29, 0, 0] > got.logprobs[5, 0, 0] + 3
    assert model.logit_lens(PROMPT, tokens=" Mary", positions="last", layers=29).logprobs[0, 0, 0] == pytest.approx(got.logprobs[29, 0, 0], abs=1e-4)


def test_the_lens_as_a_table_and_a_picture(lens):
    frame = lens.to_pandas()
    assert len(frame) == 30 * 14 * 5 and frame.iloc[-5].to_dict()["text"] == " Mary" and frame.iloc[-5]["rank"] == 1
    (heat,) = lens.plot().data
    assert heat.z.shape == (30, 14) and heat.text[29][13] == "Mary" and heat.x[9] == "9  John" and "' Mary'" in heat.customdata[29][13]
    assert "29  ' Mary'" in repr(lens) and "30 layers x 14 positions" in repr(lens)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": ["a", "b"]}, "of one prompt; there are 2"),
        ({"prompt": PROMPT, "tokens": " Marytown"}, r"' Marytown' is 2 tokens.*' Mary', 'town'"),
    ],
)
def test_bad_lenses(model, arguments, words):
    with pytest.raises((ValueError, fs.InvalidArgumentError), match=words):
        model.logit_lens(**arguments)


def test_components_add_up_and_show(model):
    got = model.logit_attrs(PROMPT, " Mary", " John")
    assert got.labels[:3] == ("embed", "0_attn_out", "0_mlp_out") and len(got.labels) == 62
    diff = fs.metrics.logit_diff(" Mary", " John")
    assert got.total[0] == pytest.approx(model.run_with_hooks(PROMPT, metrics=[diff], logits=None).metrics[diff][0], abs=5e-4)
    assert got.values.sum() == pytest.approx(got.total[0], abs=5e-4) and got[got.top(1)[0][0]] == got.top(1)[0][1]
    bars = got.plot().data[0]
    assert bars.type == "bar" and list(bars.x) == list(got.labels)
    assert "parts sum to" in repr(got) and list(got.to_pandas().columns) == ["part", "value"]
    with pytest.raises(KeyError, match="'30_mlp_out' is not a part"):
        got["30_mlp_out"]


def test_heads_and_neurons(model):
    heads = model.logit_attrs(PROMPT, " Mary", " John", by="head")
    assert heads.heads.shape == (30, 9) and heads.heads[29, 0] == heads["L29H0"]
    assert heads.plot().data[0].z.shape == (30, 9)
    neurons = model.logit_attrs(PROMPT, " Mary", " John", by="neuron", top_k=12)
    assert len(neurons.labels) == 13 and neurons.labels[-1] == "remainder" and len(neurons.plot(k=5).data[0].x) == 5
    assert neurons.values.sum() == pytest.approx(heads.values.sum(), abs=1e-3)
    with pytest.raises(ValueError, match="by='head' has heads"):
        neurons.heads  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"by": "layer"}, "by is 'layer'; 'component', 'head', 'neuron' are allowed"),
        ({"answer": " Mary John"}, r"' Mary John' is 2 tokens, not one: \[' Mary', ' John'\]"),
        ({"answer": [" Mary", " John"]}, "answer has 2 tokens for 1 prompts"),
        ({"top_k": 3}, "top_k is for the neurons of one prompt"),
    ],
)
def test_bad_attributions(model, arguments, words):
    with pytest.raises(ValueError, match=words):
        model.logit_attrs(**{"prompts": PROMPT, "answer": " Mary"} | arguments)
