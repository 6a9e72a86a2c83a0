"""Tiny random checkpoints of many shapes, saved as ordinary Hugging Face directories."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

TEXT = [
    "When John and Mary went to the shops, John gave the bag to Mary.",
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Once upon a time there was a little girl who lived in a village near the forest.",
    "It was the best of times, it was the worst of times.",
    "for (int i = 0; i < n; ++i) { sum += values[i]; }",
]
VOCABULARY = 300


@dataclass
class Spec:
    """One checkpoint: a transformers config as keyword arguments, and how it is written."""

    model_type: str
    config: dict
    old_rope_spelling: bool = False  # `rope_theta` and `rope_scaling` instead of `rope_parameters`
    shards: bool = False
    dtype: str = "float32"
    # HookedTransformer's conversion knows no Llama biases, no head size of its own, no linear scaling, and no n_inner.
    in_transformer_lens: bool = True


def llama(**config) -> dict:
    base = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5}  # fmt: skip
    return base | config


def gpt2(**config) -> dict:
    base = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, "n_ctx": 64}
    return base | config


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip

SPECS: dict[str, Spec] = {
    "mha": Spec("llama", llama()),
    "gqa-tied-sharded": Spec("llama", llama(num_key_value_heads=2, tie_word_embeddings=True), shards=True),
    "mqa-head20": Spec("llama", llama(hidden_size=80, num_key_value_heads=1)),
    "gqa-head24-own": Spec("llama", llama(head_dim=24, num_key_value_heads=2), in_transformer_lens=False),
    "biases": Spec("llama", llama(attention_bias=True, mlp_bias=True, num_key_value_heads=2), in_transformer_lens=False),
    "mha-head14": Spec("llama", llama(hidden_size=42, num_attention_heads=3, num_key_value_heads=3, intermediate_size=37)),
    "rope-linear-old": Spec("llama", llama(rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.5}),
                            old_rope_spelling=True, in_transformer_lens=False),
    "rope-linear-new": Spec("llama", llama(rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.5}),
                            in_transformer_lens=False),
    "rope-bands-old": Spec("llama", llama(rope_parameters=LLAMA3, num_key_value_heads=2), old_rope_spelling=True),
    "rope-bands-new": Spec("llama", llama(rope_parameters=LLAMA3, num_key_value_heads=2)),
    "deep": Spec("llama", llama(num_hidden_layers=9, hidden_size=32, num_key_value_heads=2)),
    "one-layer-gelu": Spec("llama", llama(num_hidden_layers=1, hidden_act="gelu")),
    "two": Spec("gpt2", gpt2()),
    "two-inner-relu": Spec("gpt2", gpt2(n_inner=70, activation_function="relu"), in_transformer_lens=False),
    "two-gelu-sharded": Spec("gpt2", gpt2(activation_function="gelu", n_head=2), shards=True),
    "two-untied-head20": Spec("gpt2", gpt2(n_embd=80, tie_word_embeddings=False, n_layer=2)),
    "two-head15": Spec("gpt2", gpt2(n_embd=45, n_head=3)),
    "two-unscaled-silu": Spec("gpt2", gpt2(scale_attn_weights=False, activation_function="silu")),
}  # fmt: skip


def make_tokenizer():
    """A byte-level BPE trained on the few lines above; its first token is a BOS that it does not add by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def make(name: str, spec: Spec, folder: Path) -> Path:
    """Writes the checkpoint to `folder/name` and returns that path."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = folder / name
    torch.manual_seed(sum(name.encode()))
    config = AutoConfig.for_model(spec.model_type, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **spec.config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Fresh models have norms of exactly 1 and biases of exactly 0, which would hide a missing one; and such small matrices that
            # attention is nearly uniform. These keep every activation near 1, as the absolute limits of compare.py suppose.
            noise = torch.randn_like(parameter)
            if "norm" in parameter_name or ".ln_" in parameter_name:
                parameter.add_(noise * 0.2)
            elif parameter_name.endswith("bias"):
                parameter.copy_(noise * 0.2)
            elif "embed" in parameter_name or ".wte" in parameter_name or ".wpe" in parameter_name:
                parameter.copy_(noise * 0.5)
            else:
                inputs = parameter.shape[0 if spec.model_type == "gpt2" and "lm_head" not in parameter_name else 1]
                parameter.copy_(noise * 1.2 / inputs**0.5)
    model.to(getattr(torch, spec.dtype))
    model.save_pretrained(path, max_shard_size="40KB" if spec.shards else "1GB")
    make_tokenizer().save_pretrained(path)
    if spec.old_rope_spelling:
        _respell_rope(path / "config.json")
    return path


def _respell_rope(file: Path) -> None:
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {("type" if rope["rope_type"] == "linear" else "rope_type"): rope.pop("rope_type"), **rope}
    file.write_text(json.dumps(config, indent=2))


@dataclass
class Checkpoint:
    """A checkpoint on disk with its transformers model, loaded when first asked for."""

    name: str
    spec: Spec
    path: Path
    _model: object = field(default=None, repr=False)

    @property
    def model(self):
        if self._model is None:
            self._model = load(self.path)
        return self._model


def load(path: Path, dtype: torch.dtype = torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=dtype).eval()
