"""model.generate and model.chat: the SDK's side of generation, against the real server. The numbers are in tests/numerics/test_generate.py."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request

import fluoroscope as fs
import numpy as np
import pytest

STORY = "Once upon a time"
FRANCE = "The capital of France is"


def test_tokens_come_one_by_one_and_make_the_text(model):
    generation = model.generate(STORY, max_new_tokens=12)
    tokens = list(generation)
    assert [token.index for token in tokens] == list(range(12))
    assert all((token.row, token.sample) == (0, 0) for token in tokens)
    assert [token.finish_reason for token in tokens] == [None] * 11 + ["length"]
    assert generation.text == "".join(token.text for token in tokens) == model.detokenize([token.id for token in tokens])
    assert generation.ids == [[[token.id for token in tokens]]] and generation.prompt_ids == [model.tokenize(STORY)]
    assert generation.timing.tokens == len(generation.prompt_ids[0]) + 11
    assert generation.provenance.model == "smollm2-135m" and len(generation.provenance.plan_sha256) == 64
    assert repr(generation) == f"Generation({generation.text!r})"
    assert list(generation) == [], "it is used up"


def test_the_first_token_is_what_top_tokens_says(model):
    (token,) = model.generate(FRANCE, 1, top_logprobs=3)
    top = model.top_tokens(FRANCE, k=3)
    assert (token.text, token.id) == (" Paris", top[0].id)
    assert token.logprob == pytest.approx(top[0].logprob, abs=1e-4)
    assert [(likely.text, likely.id) for likely in token.top] == [(item.token, item.id) for item in top]
    assert [likely.logprob for likely in token.top] == pytest.approx([item.logprob for item in top], abs=1e-4)


def test_several_prompts_and_samples(model):
    generation = model.generate([FRANCE, STORY], 6, temperature=1.0, seed=3, samples=3)
    assert len({(token.row, token.sample) for token in generation}) == 6
    assert [len(row) for row in generation.texts] == [3, 3]
    with pytest.raises(ValueError, match="2 prompts with 3 samples"):
        generation.text  # noqa: B018
    assert generation.texts[1] == model.generate(STORY, 6, temperature=1.0, seed=3, samples=3).texts[0], "in any batch"


def test_a_new_seed_each_time(model):
    texts = {model.generate(STORY, 16, temperature=1.0).text for _ in range(3)}
    assert len(texts) > 1


def test_stop_strings(model):
    whole = model.generate(STORY, 40).text
    word = whole[20:29]  # somewhere in the middle, across borders of tokens
    generation = model.generate(STORY, 40, stop=[word, "never there"])
    tokens = list(generation)
    assert generation.text == whole[: whole.index(word)]
    assert (tokens[-1].finish_reason, tokens[-1].stop) == ("stop", word)
    assert model.detokenize([token.id for token in tokens]).startswith(whole[: whole.index(word) + len(word)])
    assert model.generate(STORY, 40, stop=whole[0]).text == ""


def test_chat_is_the_template_and_nothing_else(model, smollm2_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    conversations = [
        [{"role": "user", "content": "What is the capital of France?"}],
        [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Capital of Italy?"},
         {"role": "assistant", "content": "Rome."}, {"role": "user", "content": "And of <|im_end|> Spain?"}],
    ]  # fmt: skip
    for messages in conversations:
        assert model.chat_text(messages) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        generation = model.chat(messages, 24)
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert generation.prompt_ids == [list(theirs)], "no second BOS, special tokens parsed"
    answer = model.chat(conversations[0], 24)
    assert "Paris" in answer.text
    assert answer.tokens[0][0][-1].finish_reason == "eos" and answer.tokens[0][0][-1].text == ""
    with pytest.raises(ValueError, match="messages is a list"):
        model.chat("hello")
    with pytest.raises(ValueError, match="messages is empty"):
        model.chat([])
    with pytest.raises(TypeError, match="bos"):
        model.chat(conversations[0], bos="always")


def test_captures_of_prompt_and_generated_tokens(model):
    site = "blocks.7.hook_resid_post"
    generation = model.generate(FRANCE, 5, names_filter=[site, "blocks.7.attn.hook_pattern"])
    ids = generation.prompt_ids[0] + generation.ids[0][0][:-1]
    _, cache = model.run_with_cache(ids, [site, "blocks.7.attn.hook_pattern"], remove_batch_dim=True)
    whole = np.concatenate([generation.cache[site][0], generation.generated(site)])
    np.testing.assert_allclose(whole, cache[site], atol=2e-3)
    patterns = generation.generated(("pattern", 7))
    assert [array.shape for array in patterns] == [(9, 1, 6 + i) for i in range(4)]
    np.testing.assert_allclose(patterns[2][:, 0], cache["pattern", 7][:, 7, :8], atol=1e-4)
    only = model.generate(FRANCE, 5, names_filter=site, positions="generated", reduction=fs.TopK(4))
    values, indices = only.generated(site)
    assert values.shape == indices.shape == (4, 4)
    np.testing.assert_allclose(values, -np.sort(-whole[5:], axis=-1)[:, :4], atol=2e-3)
    with pytest.raises(KeyError, match="not captured"):
        model.generate(FRANCE, 2, names_filter=site, positions="prompt").generated(site)


def test_wrong_requests(model):
    wrong = [
        (dict(temperature=-1.0), "temperature is -1"),
        (dict(top_p=1.5), "top_p is 1.5"),
        (dict(max_new_tokens=0), "max_new_tokens is 0"),
        (dict(max_new_tokens=8192), "8192"),
        (dict(stop=""), r"stop\[0\] is empty"),
        (dict(samples=2), "temperature 0"),
        (dict(interventions=[fs.patch(fs.at("hook_embed", positions="generated"), source=STORY)]), "acts on the prompt only"),
    ]
    for options, words in wrong:
        with pytest.raises(fs.InvalidArgumentError, match=words):
            model.generate(FRANCE, **options)
    with pytest.raises(fs.InvalidArgumentError, match="not finite"):
        model.generate(FRANCE, 4, interventions=[fs.scale(fs.at("blocks.*.hook_resid_post", positions="generated"), 1e30)]).text  # noqa: B018
    with pytest.raises(ValueError, match="seed is -1"):
        model.generate(FRANCE, seed=-1)
    with pytest.raises(fs.InvalidArgumentError, match="only Inference.Generate"):
        model.run_with_cache(FRANCE, "hook_embed", positions="generated")
    with pytest.raises(ValueError, match="'prompt' and 'generated' are words"):
        model.generate(FRANCE, names_filter="hook_embed", positions="everywhere")


def counted(client, code: str) -> float:
    """How many Generate calls have ended so."""
    with urllib.request.urlopen(f"http://{client.server.http_address}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    wanted = ("fluoroscope_rpcs_total{", f'code="{code}"', 'method="Inference.Generate"')
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(part in line for part in wanted))


def wait_until_counted(client, code: str, number: float) -> None:
    deadline = time.monotonic() + 10
    while counted(client, code) < number and time.monotonic() < deadline:
        time.sleep(0.05)
    assert counted(client, code) == number


def test_leaving_early_frees_the_server(client, model):
    before = counted(client, "CANCELLED")
    for token in model.generate(STORY, 4000, ignore_eos=True):
        if token.index == 3:
            break
    with model.generate(STORY, 4000, ignore_eos=True) as generation:
        next(generation)
    with pytest.raises(ValueError, match="closed before its end"):
        generation.text  # noqa: B018
    wait_until_counted(client, "CANCELLED", before + 2)
    assert model.generate(FRANCE, 1).text == " Paris"


def test_neighbours_that_come_and_go_change_nothing(model):
    """Steps are shared: a call that begins, or is cancelled in the middle of one, is not seen in another."""
    alone = model.generate(STORY, 40, temperature=1.0, seed=5, ignore_eos=True)
    expected = alone.text
    generation = model.generate(STORY, 40, temperature=1.0, seed=5, ignore_eos=True)
    neighbours = []
    for token in generation:
        if token.index % 8 == 2:
            neighbours.append(model.generate(FRANCE, 500, temperature=1.0, ignore_eos=True))
        if token.index % 8 == 6:
            neighbours.pop().close()
    assert generation.text == expected


def batches(client) -> tuple[float, float]:
    """(how many batches the server has run, rows in all of them together)."""
    with urllib.request.urlopen(f"http://{client.server.http_address}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return tuple(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"fluoroscope_batch_rows_{part}{{")) for part in ("count", "sum"))


def test_calls_share_their_steps(client, model):
    before = batches(client)
    threads = [threading.Thread(target=lambda: model.generate(STORY, 40, ignore_eos=True).text) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps, rows = (after - old for after, old in zip(batches(client), before, strict=True))
    assert rows == 4 * 40, "four prompts, and 39 tokens behind each"
    assert steps < rows / 2, "most steps took several of them"


def test_async_generation(client, model):
    async def ask():
        async with fs.AsyncClient(client.target) as running:
            other = await running.model("smollm2-135m")
            texts = [token.text async for token in await other.generate(STORY, 8)]
            assert "".join(texts) == model.generate(STORY, 8).text
            generation = await other.chat([{"role": "user", "content": "What is the capital of France?"}], 16)
            assert "Paris" in (await generation.read()).text
            assert await other.chat_text([{"role": "user", "content": "hi"}]) == model.chat_text([{"role": "user", "content": "hi"}])

            async def endless():
                async for _ in await other.generate(STORY, 4000, ignore_eos=True):
                    started.set()

            started = asyncio.Event()
            task = asyncio.create_task(endless())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            closed = await other.generate(STORY, 4000, ignore_eos=True)
            await closed.close()

    before = counted(client, "CANCELLED")
    asyncio.run(ask())
    wait_until_counted(client, "CANCELLED", before + 2)
