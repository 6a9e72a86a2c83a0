"""Small random checkpoints in Hugging Face's format: one for quick answers, one that keeps the executor busy for seconds."""

from __future__ import annotations

from pathlib import Path

TEXT = ["When John and Mary went to the shops, John gave the bag to Mary.", "The capital of France is Paris."] * 4
VOCABULARY = 400


def _save(folder: Path, **config) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(TEXT, trainer)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **config)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    return folder


def tiny(folder: Path) -> Path:
    """3 layers, 4 heads over 2 key heads, context 64."""
    return _save(folder, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=64)  # fmt: skip


def busy(folder: Path) -> Path:
    """16 layers of width 512, context 4096: tens of thousands of tokens take many seconds."""
    return _save(folder, hidden_size=512, intermediate_size=1536, num_hidden_layers=16, num_attention_heads=8, num_key_value_heads=8,
                 max_position_embeddings=4096)  # fmt: skip
