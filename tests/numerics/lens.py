"""TransformerLens's own model of a checkpoint, without any weight processing, for what its hook names mean."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor


def load(path: Path, hf_model):
    """A HookedTransformer with the weights of `hf_model`. The path must not contain "llama": TransformerLens guesses from names."""
    from transformer_lens import HookedTransformer, loading_from_pretrained
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights

    cfg = loading_from_pretrained.get_pretrained_model_config(str(path), device="cpu", dtype=torch.float32)
    convert = {"gpt2": convert_gpt2_weights, "llama": convert_llama_weights}[hf_model.config.model_type]
    with warnings.catch_warnings():  # HookedTransformer is announced to go in 4.0; we pin 3.9
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(cfg, move_to_device=False)
    with torch.no_grad():
        missing, unexpected = model.load_state_dict(convert(hf_model, cfg), strict=False)
    # Only buffers (masks, rotary tables) may be missing, and the unembedding bias, which is zero in both families.
    weights = [name for name in missing if name.rsplit(".", 1)[-1] not in {"mask", "IGNORE", "rotary_sin", "rotary_cos"}]
    assert weights in ([], ["unembed.b_U"]), weights
    assert not unexpected, unexpected
    return model.eval()


@torch.no_grad()
def run(model, ids: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [pos, vocabulary] and every hook point, without the batch axis. Runs twice: with the options that add hook points, and plain,
    because split inputs change what ln1's hooks hold (one per head)."""
    grouped = model.cfg.n_key_value_heads is not None
    model.set_use_attn_result(True)
    model.set_use_hook_mlp_in(True)
    model.set_use_split_qkv_input(False)
    if not grouped:
        model.set_use_attn_in(False)
    tokens = torch.tensor([ids])
    logits, plain = model.run_with_cache(tokens, prepend_bos=False)
    sites = {name: value[0] for name, value in plain.items()}
    model.set_use_split_qkv_input(True)
    _, split = model.run_with_cache(tokens, prepend_bos=False)
    sites |= {name: value[0] for name, value in split.items() if name.endswith(("q_input", "k_input", "v_input"))}
    model.set_use_split_qkv_input(False)
    if not grouped:
        model.set_use_attn_in(True)
        _, shared = model.run_with_cache(tokens, prepend_bos=False)
        sites |= {name: value[0] for name, value in shared.items() if name.endswith("hook_attn_in")}
        model.set_use_attn_in(False)
    return logits[0], sites
