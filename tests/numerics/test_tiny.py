"""The server on tiny random models: logits and every hook point against the reference, in one packed batch of unequal rows."""

from __future__ import annotations

import pytest
import torch

from . import lens
from .checkpoints import SPECS
from .compare import TINY, assert_close
from .reference import trace
from .serving import ALL_LOGITS, capture

ROWS = [[0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81], [9], [299, 298, 297, 1, 0, 42, 42], [0, 17, 42, 3, 8]]


def available(server, name: str, layers: int) -> set[str]:
    """Full names of the hook points that the server says this model has."""
    names = [site.name for site in server.sites(name).values() if not site.unavailable_because]
    return {full for one in names for full in ([one.replace("{l}", str(layer)) for layer in range(layers)] if "{l}" in one else [one])}


@pytest.mark.parametrize("name", SPECS)
def test_every_site_and_the_logits_equal_the_reference(server, weights, name):
    w = weights(name)
    result = server.forward(name, ROWS, captures=[capture("*")], logits=ALL_LOGITS)
    offered = available(server, name, len(w.layers))
    for row, ids in enumerate(ROWS):
        expected = trace(w, ids)
        assert offered == set(expected.sites)
        assert_close(result.get("logits", row), expected.logits, TINY, f"{name} row {row} logits")
        got = result.sites(row)
        assert set(got) == set(expected.sites)
        for site, value in expected.sites.items():
            assert_close(got[site], value, TINY, f"{name} row {row} {site}")


@pytest.mark.parametrize("name", SPECS)
def test_logits_residual_and_patterns_equal_transformers(server, checkpoint, name):
    """Directly, without the reference in between: eager attention, each row by itself."""
    model = checkpoint(name).model
    layers = range(model.config.num_hidden_layers)
    result = server.forward(name, ROWS, captures=[capture(["blocks.*.hook_resid_pre", "blocks.*.attn.hook_pattern"])], logits=ALL_LOGITS)
    for row, ids in enumerate(ROWS):
        with torch.no_grad():
            theirs = model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
        assert len(theirs.attentions) == len(layers)
        assert_close(result.get("logits", row), theirs.logits[0], TINY, f"{name} row {row} logits")
        for layer in layers:
            for hook, value in (("hook_resid_pre", theirs.hidden_states[layer]), ("attn.hook_pattern", theirs.attentions[layer])):
                assert_close(result.get(f"blocks.{layer}.{hook}", row), value[0], TINY, f"{name} row {row} layer {layer} {hook}")


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.in_transformer_lens])
def test_a_name_means_the_tensor_that_transformer_lens_means(server, checkpoint, name):
    made = checkpoint(name)
    model = lens.load(made.path, made.model)
    result = server.forward(name, ROWS, captures=[capture("*")], logits=ALL_LOGITS)
    for row, ids in enumerate(ROWS):
        logits, theirs = lens.run(model, ids)
        assert_close(result.get("logits", row), logits, TINY, f"{name} row {row} logits")
        compared = 0
        for site, value in result.sites(row).items():
            if site in theirs:
                assert_close(value, theirs[site], TINY, f"{name} row {row} {site}")
                compared += 1
        grouped_attn_in = model.cfg.n_layers if model.cfg.n_key_value_heads is not None else 0  # not in TransformerLens
        assert compared == len(result.sites(row)) - grouped_attn_in


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two", "biases"])
def test_sites_one_at_a_time_equal_all_at_once(server, weights, name):
    """Each site alone takes another way through the server: fused attention, an early stop, only the positions that are read."""
    w = weights(name)
    expected = trace(w, ROWS[0])
    for site, value in expected.sites.items():
        got = server.forward(name, [ROWS[0]], captures=[capture(site)]).get(site)
        assert_close(got, value, TINY, f"{name} {site} alone")
        last = server.forward(name, [ROWS[0]], captures=[capture(site, at="last")]).get(site)
        by_query = site.endswith(("attn_scores", "pattern"))
        assert_close(last, value[:, -1:] if by_query else value[-1:], TINY, f"{name} {site} alone, last position")


def test_text_runs_as_the_tokenizer_encodes_it(server, checkpoint, weights):
    from transformers import AutoTokenizer

    text = "When John and Mary went to the shops"
    ids = AutoTokenizer.from_pretrained(checkpoint("mha").path)(text)["input_ids"]
    result = server.forward("mha", [text], logits=ALL_LOGITS)
    assert list(result.reply.header.rows[0].token_ids) == ids
    assert_close(result.get("logits"), trace(weights("mha"), ids).logits, TINY, "logits of a text")
