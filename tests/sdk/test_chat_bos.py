"""Conversations with a model whose tokenizer puts a BOS in front of every text: a template that writes one gets one, and one that writes none gets none."""

from __future__ import annotations

from pathlib import Path

import fluoroscope as fs
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

MESSAGES = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A bag."}, {"role": "user", "content": "Whose?"}]
TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[assistant]"


def save(folder: Path, template: str) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(["Who are you? A bag."], trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    made.save_pretrained(folder)
    torch.manual_seed(2)
    config = transformers.LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                                      max_position_embeddings=256, bos_token_id=0, eos_token_id=1)  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("chat")
    return {"with": save(base / "with", "{{ bos_token }}" + TEMPLATE), "without": save(base / "without", TEMPLATE)}


@pytest.fixture(scope="module")
def client(folders):
    with fs.serve(folders, jobs=False, loading=False) as connected:
        yield connected


@pytest.mark.parametrize(("name", "count"), [("with", 1), ("without", 0)])
def test_the_template_alone_says_whether_there_is_a_bos(client, folders, name, count):
    model = client.model(name)
    assert model.info.default_bos
    theirs = transformers.AutoTokenizer.from_pretrained(folders[name])
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert expected.count(0) == count
    answer = model.chat(MESSAGES, max_new_tokens=2, ignore_eos=True)
    assert answer.prompt_ids == [expected]
    assert len(answer.ids[0][0]) == 2
    assert answer.cache.bos_added == (False,)


def test_a_plain_text_gets_one(client):
    model = client.model("with")
    [ids] = model.generate("Who are you?", max_new_tokens=1).prompt_ids
    assert ids[0] == 0 and ids.count(0) == 1
    for bos, start in (("always", [0]), ("never", [])):
        assert model.generate("Who are you?", max_new_tokens=1, bos=bos).prompt_ids == [[*start, *ids[1:]]]
        assert model.generate("<s>Who are you?", max_new_tokens=1, bos=bos, parse_special_tokens=True).prompt_ids == [ids], "the text's own and no second one"
