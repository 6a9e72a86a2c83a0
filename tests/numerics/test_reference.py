"""The reference itself: equal to transformers where transformers shows its insides, also when both are edited there, and to TransformerLens at every name."""

from __future__ import annotations

import pytest
import torch

from . import lens
from .checkpoints import SPECS
from .reference import trace, weights_of
from .slow_edits import Place, edited

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


# Places where transformers' modules show a hook point: name in the block, the module of Llama, of GPT-2, and whether the value goes in or comes out.
SEAMS = [
    ("hook_resid_pre", "", "", "in"),
    ("hook_resid_post", "", "", "out"),
    ("hook_attn_out", "self_attn.o_proj", "attn.c_proj", "out"),
    ("attn.hook_z", "self_attn.o_proj", "attn.c_proj", "in"),
    ("attn.hook_q", "self_attn.q_proj", None, "out"),
    ("attn.hook_k", "self_attn.k_proj", None, "out"),
    ("attn.hook_v", "self_attn.v_proj", None, "out"),
    ("hook_mlp_in", "post_attention_layernorm", "ln_2", "in"),
    ("mlp.hook_pre", "mlp.gate_proj", "mlp.c_fc", "out"),
    ("mlp.hook_pre_linear", "mlp.up_proj", None, "out"),
    ("mlp.hook_post", "mlp.down_proj", "mlp.c_proj", "in"),
    ("hook_mlp_out", "mlp.down_proj", "mlp.c_proj", "out"),
]


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "biases", "two"])
def test_an_edited_reference_equals_transformers_with_hooks(checkpoint, name):
    """Some positions, heads and units of a place changed: by the reference's edit, and by a hook on transformers' module, which indexes the flat vector."""
    model = checkpoint(name).model
    w = weights_of(model)
    llama, layer, positions, units = model.config.model_type == "llama", 1, [2, 5, 10], [0, 3, 7]
    block = (model.model.layers if llama else model.transformer.h)[layer]
    plain = trace(w, IDS).logits
    for site, in_llama, in_gpt2, side in SEAMS:
        module_name = in_llama if llama else in_gpt2
        if module_name is None:
            continue
        full = f"blocks.{layer}.{site}"
        of_heads = site in ("attn.hook_z", "attn.hook_q", "attn.hook_k", "attn.hook_v")
        place = Place(full, positions, [1] if of_heads else [0], units)
        columns = [unit + (w.d_head if of_heads else 0) for unit in units]

        def changed(value, columns=columns):
            out = value.clone()
            for position in positions:
                for column in columns:
                    out[0, position, column] = -1.5 * value[0, position, column] + 0.3 * position
            return out

        def before(_, given, changed=changed):
            return (changed(given[0]), *given[1:])

        def behind(_, given, out, changed=changed):
            return (changed(out[0]), *out[1:]) if isinstance(out, tuple) else changed(out)

        module = block.get_submodule(module_name)
        hook = module.register_forward_pre_hook(before) if side == "in" else module.register_forward_hook(behind)
        try:
            with torch.no_grad():
                theirs = model(torch.tensor([IDS])).logits[0]
        finally:
            hook.remove()

        def change(own, i, h, position, head):
            return -1.5 * own + 0.3 * position

        ours = trace(w, IDS, lambda at, value, place=place, change=change: edited(place, value, change) if at == place.site else value).logits
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5, msg=lambda text, full=full: f"{full}: {text}")
        assert (ours - plain).abs().max() > 1e-2, f"{full}: the edit changes something"
        torch.testing.assert_close(ours[:2], plain[:2], atol=0, rtol=0)
