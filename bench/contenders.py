"""transformers and TransformerLens on the same checkpoint, in this process, as a notebook would use them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

THREADS = 2


class Transformers:
    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    @torch.no_grad()
    def forward(self, ids: torch.Tensor, last_only: bool) -> torch.Tensor:
        return self.model(ids, use_cache=False, logits_to_keep=1 if last_only else 0).logits


class TransformerLens:
    """HookedTransformer without weight processing, holding the same weights."""

    def __init__(self, directory: Path, hf_model: torch.nn.Module) -> None:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions import convert_llama_weights

        config = AutoConfig.from_pretrained(directory)
        rope = config.rope_parameters
        cfg = HookedTransformerConfig(
            n_layers=config.num_hidden_layers, d_model=config.hidden_size, n_ctx=256, d_head=config.hidden_size // config.num_attention_heads,
            n_heads=config.num_attention_heads, n_key_value_heads=config.num_key_value_heads, d_mlp=config.intermediate_size,
            d_vocab=config.vocab_size, act_fn=config.hidden_act, normalization_type="RMS", positional_embedding_type="rotary",
            rotary_dim=config.hidden_size // config.num_attention_heads, rotary_base=int(rope["rope_theta"]), rotary_adjacent_pairs=False,
            eps=config.rms_norm_eps, gated_mlp=True, final_rms=True, original_architecture="LlamaForCausalLM", device="cpu", dtype=torch.float32,
        )
        self.model = HookedTransformer(cfg, move_to_device=False).eval()
        self.model.load_state_dict(convert_llama_weights(hf_model, cfg), strict=False)

    @torch.no_grad()
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids)

    @torch.no_grad()
    def cache(self, ids: torch.Tensor, names: set[str]) -> dict[str, torch.Tensor]:
        return self.model.run_with_cache(ids, names_filter=lambda name: name in names, return_cache_object=False)[1]
