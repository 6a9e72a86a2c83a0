"""Prompts that begin alike are not run twice: by whom, how far, and that the numbers stay. How many tokens were reused is in the summary."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from . import generating
from .checkpoints import Checkpoint
from .compare import TINY, assert_close
from .generating import GENERATED, at, generate
from .reference import trace
from .serving import SMOLLM2, Server, capture, copy, edit, tensor

BLOCK = 16  # tokens; only whole blocks are kept
NAME = "gqa-tied-sharded"
LONG = [int(token) for token in np.random.default_rng(3).integers(2, 300, 45)]
VECTOR = np.random.default_rng(0).standard_normal(48).astype(np.float32)
FAMILIES = ["gqa-tied-sharded", "two", "mqa-head20", "rope-bands-new"]  # "two" has learned positions


def whole_blocks(tokens: int) -> int:
    return tokens // BLOCK * BLOCK


def same_tokens(a: generating.Generated, b: generating.Generated, limit: float, row: int = 0) -> None:
    assert a.ids(row) == b.ids(row)
    for one, other in zip(a.tokens[row, 0], b.tokens[row, 0], strict=True):
        assert [t.id for t in one.top] == [t.id for t in other.top]
        assert [t.logprob for t in one.top] == pytest.approx([t.logprob for t in other.top], abs=limit)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_second_time_is_the_first(server, weights, name):
    options = dict(principal="second-time-" + name, top_logprobs=5, ignore_eos=True)
    first = generate(server, name, [LONG], 12, **options)
    again = generate(server, name, [LONG], 12, **options)
    assert first.summary.reused_tokens == 0 and first.summary.tokens == len(LONG) + 11
    assert again.summary.reused_tokens == whole_blocks(len(LONG) - 1)
    assert again.summary.tokens == len(LONG) + 11 - again.summary.reused_tokens
    assert again.header.provenance.plan_sha256 == first.header.provenance.plan_sha256
    same_tokens(first, again, TINY)
    ids, logs = generating.slow_greedy(weights(name), LONG, 12, {})
    assert again.ids() == ids
    for token, expected in zip(again.tokens[0, 0], logs, strict=True):
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=TINY)


def test_what_was_generated_is_known_too(server):
    """The next turn of a conversation: the prompt, what came of it, and more."""
    principal = "next-turn"
    first = generate(server, NAME, [LONG[:20]], 14, principal=principal, ignore_eos=True)
    turn = LONG[:20] + first.ids() + LONG[20:25]
    cold = generate(server, NAME, [turn], 5, principal="nobody-else", top_logprobs=5, ignore_eos=True)
    warm = generate(server, NAME, [turn], 5, principal=principal, top_logprobs=5, ignore_eos=True)
    assert cold.summary.reused_tokens == 0
    assert warm.summary.reused_tokens == whole_blocks(20 + 13), "the last token was not run"
    same_tokens(cold, warm, TINY)


def test_others_share_nothing(server):
    assert generate(server, NAME, [LONG], 2, principal="one").summary.reused_tokens == 0
    assert generate(server, NAME, [LONG], 2, principal="other").summary.reused_tokens == 0
    assert generate(server, NAME, [LONG], 2, principal="one").summary.reused_tokens == 32
    assert generate(server, "mha", [LONG], 2, principal="one").summary.reused_tokens == 0, "another model"


def test_only_the_common_beginning(server):
    principal = "common"
    generate(server, NAME, [LONG], 2, principal=principal)
    other = LONG[:40]
    other[20] += 1
    cold = generate(server, NAME, [other, LONG[:18], LONG[:16], LONG], 6, principal="cold", top_logprobs=5, ignore_eos=True)
    warm = generate(server, NAME, [other, LONG[:18], LONG[:16], LONG], 6, principal=principal, top_logprobs=5, ignore_eos=True)
    # 16 of the first two; of a prompt of 16 tokens the last must run, and its block is whole only with it; 32 of the last.
    assert warm.summary.reused_tokens == 16 + 16 + 0 + 32
    for row in range(4):
        same_tokens(cold, warm, TINY, row)


def steer(where: int | None) -> plan_pb2.Intervention:
    asked = edit("blocks.0.hook_resid_post", add=plan_pb2.Add(value=tensor(VECTOR), scale=2.0), at=None if where is None else [where])
    return at(asked, GENERATED) if where is None else asked


@pytest.mark.parametrize("where", [0, 15, 16, 33, 44])
def test_edited_prompts_are_reused_in_front_of_the_edit_only(server, weights, where):
    principal = f"edited-{where}"
    generate(server, NAME, [LONG], 2, principal=principal)
    options = dict(interventions=[steer(where)], top_logprobs=5, ignore_eos=True)
    warm = generate(server, NAME, [LONG], 6, principal=principal, **options)
    assert warm.summary.reused_tokens == min(32, whole_blocks(where))
    same_tokens(generate(server, NAME, [LONG], 6, principal="cold", isolated=True, **options), warm, TINY)

    def add(value, length):
        value[where] += 2.0 * torch.tensor(VECTOR)
        return value

    ids, logs = generating.slow_greedy(weights(NAME), LONG, 6, {"blocks.0.hook_resid_post": add})
    assert warm.ids() == ids
    for token, expected in zip(warm.tokens[0, 0], logs, strict=True):
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=TINY)


@pytest.mark.parametrize("where", [0, 16, 33, None])
def test_what_was_edited_is_not_kept(server, where):
    """None: generated tokens are edited, and the prompt is as it always is."""
    principal = f"spoilt-{where}"
    first = generate(server, NAME, [LONG[:34]], 25, principal=principal, interventions=[steer(where)], ignore_eos=True)
    assert first.summary.reused_tokens == 0
    turn = LONG[:34] + first.ids()[:20]
    plain = generate(server, NAME, [turn], 4, principal=principal, top_logprobs=5, ignore_eos=True)
    assert plain.summary.reused_tokens == (32 if where is None else whole_blocks(where))
    same_tokens(generate(server, NAME, [turn], 4, isolated=True, top_logprobs=5, ignore_eos=True), plain, TINY)


def test_captures_are_of_tokens_that_run(server, weights):
    principal = "captures"
    generate(server, NAME, [LONG], 2, principal=principal)
    sites = trace(weights(NAME), LONG).sites
    for positions, reused in (("all", 0), ([20, 44], 16), ([5], 0), ("last", 32)):
        asked = [capture(["blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern"], at=positions)]
        got = generate(server, NAME, [LONG], 3, principal=principal, captures=asked)
        assert got.summary.reused_tokens == reused, positions
        of_prompt = [(header, array) for header, array in got.tensors if not header.HasField("sample")]
        assert len(of_prompt) == 4
        for header, array in of_prompt:
            chosen = list(header.positions)
            expected = sites[header.name][:, chosen] if header.name.endswith("pattern") else sites[header.name][chosen]
            assert_close(array, expected.numpy(), TINY, f"{header.name} at {positions}")


def test_rows_that_others_read_run_whole(server, weights):
    principal = "sources"
    generate(server, NAME, [LONG], 2, principal=principal)
    asked = [copy("blocks.1.attn.hook_v", row=0, to=1, at=[3])]
    got = generate(server, NAME, [LONG, LONG[:-1]], 4, principal=principal, interventions=asked, top_logprobs=5, ignore_eos=True)
    assert got.summary.reused_tokens == 0, "row 0 is read; row 1 is edited at 3"
    cold = generate(server, NAME, [LONG, LONG[:-1]], 4, principal="cold", interventions=asked, top_logprobs=5, ignore_eos=True)
    for row in range(2):
        same_tokens(cold, got, TINY, row)


def test_samples_share_a_reused_prompt(server):
    options = dict(sampling=dict(temperature=1.0, seed=5), samples=3, ignore_eos=True)
    cold = generate(server, NAME, [LONG], 8, principal="samples", **options)
    warm = generate(server, NAME, [LONG], 8, principal="samples", **options)
    assert warm.summary.reused_tokens == 32
    assert [warm.ids(0, s) for s in range(3)] == [cold.ids(0, s) for s in range(3)]


def test_isolated_neither_takes_nor_leaves_and_repeats_its_bits(server):
    principal = "isolated"
    options = dict(principal=principal, isolated=True, top_logprobs=20, ignore_eos=True)
    rows = [LONG, LONG[:20], LONG[3:30]]
    alone = generate(server, NAME, rows, 12, **options)
    assert alone.header.provenance.isolated and alone.summary.reused_tokens == 0
    assert generate(server, NAME, [LONG], 1, principal=principal).summary.reused_tokens == 0
    stop = threading.Event()

    def load_it(i: int) -> None:
        while not stop.is_set():
            generate(server, NAME, [LONG[i:]] * (i + 1), 10, ignore_eos=True)

    threads = [threading.Thread(target=load_it, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            again = generate(server, NAME, rows, 12, **options)
            assert again.summary.reused_tokens == 0
            for row in range(3):
                same_tokens(alone, again, 0, row)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert alone.header.provenance.plan_sha256 != generate(server, NAME, rows, 12, ignore_eos=True).header.provenance.plan_sha256


def test_a_real_model_with_and_without(smollm2, smollm2_torch, smollm2_path):
    """Greedy tokens are transformers' own, also behind a reused prefix; where they are not, the two best are a near-tie (none is at present)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    system = "You are a helpful assistant. Answer every question in one short sentence, and say so when you do not know the answer.\n"
    options = dict(principal="real", top_logprobs=5)
    generate(smollm2, SMOLLM2, [system + "Question: What is the capital of Italy?\nAnswer:"], 4, **options)
    for question in ("What is the capital of France?", "How many legs has a spider?"):
        text = f"{system}Question: {question}\nAnswer:"
        encoded = tokenizer(text, return_tensors="pt")
        common = len(tokenizer(system + "Question:")["input_ids"])
        cold = generate(smollm2, SMOLLM2, [text], 24, principal=f"cold{len(question)}", top_logprobs=5)
        warm = generate(smollm2, SMOLLM2, [text], 24, **options)
        assert cold.summary.reused_tokens == 0 and warm.summary.reused_tokens >= whole_blocks(common) >= 16
        same_tokens(cold, warm, 1e-4)
        with torch.no_grad():
            expected = smollm2_torch.generate(**encoded, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.eos_token_id)[0]
        assert warm.ids() == expected[encoded["input_ids"].shape[1] :].tolist()


def test_half_precision(checkpoints: dict[str, Checkpoint], tmp_path):
    """bfloat16 has 8 bits; a prefix from another batch may differ by one of its steps, which logits of up to 5 show as 0.03 each."""
    server = Server({"half": (checkpoints[NAME].path, "bf16"), "full": checkpoints[NAME].path}, tmp_path)
    try:
        first = generate(server, "half", [LONG], 3, ignore_eos=True)
        again = generate(server, "half", [LONG], 3, ignore_eos=True)
        assert again.summary.reused_tokens == 32
        for one, other in zip(first.tokens[0, 0], again.tokens[0, 0], strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=0.1)
            if one.id != other.id:
                break
        assert generate(server, "full", [LONG], 3).summary.reused_tokens == 0, "the same weights in another dtype"
    finally:
        server.stop()
