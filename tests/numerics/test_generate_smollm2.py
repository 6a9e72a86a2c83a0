"""Generation on a real model, against transformers' generate() and the slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from . import generating
from .compare import LOGIT
from .generating import GENERATED, at, generate
from .reference import weights_of
from .serving import ALL_LOGITS, SMOLLM2, edit, tensor

PROMPTS = [
    "Once upon a time", "The capital of France is", "When John and Mary went to the shops, John gave the bag to", "def fibonacci(n):",
    "The three most important things in life are", "In the year 2050,", "Q: What is the boiling point of water?\nA:", "Dear Sir or Madam,",
    "The quick brown fox", "To be, or not to be,", "1, 2, 3, 4, 5,", "A recipe for pancakes:\n", "The moon is", "import numpy as np\n",
    "My favourite colour is", "It was a dark and stormy night;", "Photosynthesis is the process by which", "Le chat est",
    "The president of the company announced", "Roses are red,",
]  # fmt: skip
TIE = 1e-3


def test_greedy_equals_transformers(smollm2, smollm2_torch, smollm2_path, record_property):
    """20 prompts of 64 tokens, in one request. Where the two differ, the two best logits must be a near-tie."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    got = generate(smollm2, SMOLLM2, PROMPTS, 64)
    ties = []
    for row, prompt in enumerate(PROMPTS):
        encoded = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            output = smollm2_torch.generate(**encoded, max_new_tokens=64, do_sample=False, pad_token_id=tokenizer.eos_token_id)[0]
            prompt_ids, expected = encoded["input_ids"][0].tolist(), output[encoded["input_ids"].shape[1] :].tolist()
            assert list(got.header.rows[row].token_ids) == prompt_ids
            if got.ids(row) == expected:
                assert got.text(row) == tokenizer.decode([i for i in expected if i != tokenizer.eos_token_id])
                continue
            first = next(i for i, (a, b) in enumerate(zip(got.ids(row), expected, strict=False)) if a != b)
            logits = smollm2_torch(output[None, : len(prompt_ids) + first]).logits[0, -1]
        gap = float(logits[expected[first]] - logits[got.ids(row)[first]])
        assert 0 <= gap < TIE, f"{prompt!r}: token {first} is {got.ids(row)[first]}, transformers' {expected[first]}, {gap} more likely"
        ties.append((prompt, first, gap))
    record_property("near-ties", str(ties))
    print("near-ties:", ties)
    assert len(ties) <= 2


def test_steps_of_a_real_model_are_the_whole_forward(smollm2):
    got = generate(smollm2, SMOLLM2, PROMPTS[:3], 40, top_logprobs=50, ignore_eos=True)
    rows = [list(got.header.rows[row].token_ids) + got.ids(row) for row in range(3)]
    whole = smollm2.forward(SMOLLM2, rows, logits=ALL_LOGITS)
    for row, ids in enumerate(rows):
        logs = torch.tensor(whole.get("logits", row)).log_softmax(-1)
        for token in got.tokens[row, 0]:
            here = len(ids) - 40 + token.index - 1
            best = logs[here].topk(50)
            assert [t.logprob for t in token.top] == pytest.approx(best.values.tolist(), abs=LOGIT)
            assert token.logprob == token.top[0].logprob


def test_steering_a_real_model(smollm2, smollm2_torch):
    """fs.add on generated tokens against the reference, which runs the whole sequence for each."""
    w = weights_of(smollm2_torch)
    site, steps = "blocks.10.hook_resid_post", 12
    direction = np.random.default_rng(5).standard_normal(576).astype(np.float32)
    asked = at(edit(site, add=plan_pb2.Add(value=tensor(direction), scale=6.0)), GENERATED)
    got = generate(smollm2, SMOLLM2, [PROMPTS[0]], steps, interventions=[asked], top_logprobs=20, ignore_eos=True)
    prompt = list(got.header.rows[0].token_ids)

    def steer(value, length):
        value[len(prompt) :] += 6.0 * torch.tensor(direction)
        return value

    ids, logs = generating.slow_greedy(w, prompt, steps, {site: steer})
    assert got.ids() == ids
    assert got.ids() != generate(smollm2, SMOLLM2, [PROMPTS[0]], steps, ignore_eos=True).ids(), "it steers"
    for token, expected in zip(got.tokens[0, 0], logs, strict=True):
        assert [t.logprob for t in token.top] == pytest.approx(expected.topk(20).values.tolist(), abs=LOGIT)
