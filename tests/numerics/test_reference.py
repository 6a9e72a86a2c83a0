"""The reference itself: equal to transformers where transformers shows its insides, and to TransformerLens at every name."""

from __future__ import annotations

import pytest
import torch

from . import lens
from .checkpoints import SPECS
from .reference import trace, weights_of

IDS = [0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81]


@pytest.mark.parametrize("name", SPECS)
def test_reference_equals_transformers(checkpoint, name):
    model = checkpoint(name).model
    with torch.no_grad():
        theirs = model(torch.tensor([IDS]), output_hidden_states=True, output_attentions=True)
    ours = trace(weights_of(model), IDS)
    torch.testing.assert_close(ours.logits, theirs.logits[0], atol=2e-5, rtol=1e-5)
    layers = model.config.num_hidden_layers
    for layer in range(layers):
        close = {"atol": 2e-5, "rtol": 1e-5}
        torch.testing.assert_close(ours.sites[f"blocks.{layer}.hook_resid_pre"], theirs.hidden_states[layer][0], **close)
        torch.testing.assert_close(ours.sites[f"blocks.{layer}.attn.hook_pattern"], theirs.attentions[layer][0], **close)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.in_transformer_lens])
def test_reference_equals_transformer_lens(checkpoint, name):
    made = checkpoint(name)
    their_logits, theirs = lens.run(lens.load(made.path, made.model), IDS)
    ours = trace(weights_of(made.model), IDS)
    torch.testing.assert_close(ours.logits, their_logits, atol=2e-5, rtol=1e-5)
    grouped = made.model.config.model_type == "llama" and made.model.config.num_key_value_heads < made.model.config.num_attention_heads
    for site, value in ours.sites.items():
        if grouped and site.endswith("hook_attn_in"):
            continue  # TransformerLens offers it only with as many k and v heads as q heads
        torch.testing.assert_close(value, theirs[site], atol=2e-5, rtol=1e-5, msg=lambda text, site=site: f"{site}: {text}")


def test_checkpoints_are_not_trivial(checkpoint):
    """Attention that is neither uniform nor one-hot, and logits that move: else the comparisons show little."""
    for name in SPECS:
        run = trace(weights_of(checkpoint(name).model), IDS)
        last = run.sites["blocks.0.attn.hook_pattern"][:, -1]
        entropy = -(last * last.clamp_min(1e-12).log()).sum(-1)
        assert 0.05 < entropy.mean() < 2.35, (name, entropy)
        assert run.logits.std() > 0.1, name
