"""What a generation costs, before and after; what it takes from earlier ones; and that an isolated one repeats its bits."""

from __future__ import annotations

import asyncio
import urllib.request

import fluoroscope as fs
import pytest

STORY = "Once upon a time there was a little girl who lived with her mother in a house near the forest. "
SHAPES = {
    "a long prompt": dict(prompts=STORY * 16, max_new_tokens=2),
    "a long continuation": dict(prompts="Once", max_new_tokens=70),
    "many samples": dict(prompts=STORY * 4, max_new_tokens=4, samples=10, temperature=1.0, seed=1),
    "several prompts": dict(prompts=[STORY * n for n in (1, 2, 5)], max_new_tokens=6),
    "captures": dict(prompts=STORY * 5, max_new_tokens=10, names_filter="blocks.3.hook_resid_post"),
    "an edit": dict(prompts=STORY * 5, max_new_tokens=6, interventions=[fs.scale("blocks.5.hook_mlp_out", 0.5)]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_what_it_takes(model, shape):
    """`isolated`, so that nothing is reused: the estimate is for that."""
    asked = dict(SHAPES[shape]) | dict(isolated=True, ignore_eos=True)
    estimate = model.estimate_generate(**asked)
    timing = (generation := model.generate(**asked)).timing
    assert estimate.tokens == timing.tokens
    assert timing.peak_bytes <= estimate.peak_bytes <= 1.25 * timing.peak_bytes + 2**20, f"{estimate.peak_bytes / timing.peak_bytes:.2f}"
    assert estimate.budget_bytes > estimate.peak_bytes
    # Two per parameter and token, the unembedding only where a token is chosen; attention adds to that.
    chosen = sum(len(sample) for row in generation.ids for sample in row)
    vocabulary = model.info.vocabulary * model.info.d_model
    least = 2 * ((model.info.parameters - vocabulary) * timing.tokens + vocabulary * chosen)
    assert 0.9 * least < estimate.flops < 1.5 * least


def test_a_wrong_estimate_is_the_wrong_generation(model):
    with pytest.raises(fs.InvalidArgumentError, match="temperature is -1"):
        model.estimate_generate("Hello", temperature=-1.0)
    with pytest.raises(TypeError, match="timeout"):
        model.estimate_generate("Hello", timeout=3)


def test_a_conversation_goes_on_where_it_was(client, model, smollm2_path):
    """The second turn runs only what is new: the first one's prompt and answer are known, but for what is no whole block of 16 tokens."""
    system = "You answer in one short sentence, politely and without jokes. When you do not know something, you say so and do not guess."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "What is the capital of France?"}]
    with fs.connect(client.target, principal="a-conversation") as other:
        mine = other.model("smollm2-135m")
        first = mine.chat(messages, 24)
        assert first.timing.reused_tokens == 0
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And of Italy?"}]
        second = mine.chat(messages, 24)
        ran = first.prompt_ids[0] + first.ids[0][0][:-1]
        common = next((i for i, (a, b) in enumerate(zip(ran, second.prompt_ids[0], strict=False)) if a != b), len(ran))
        assert second.timing.reused_tokens == common // 16 * 16 >= len(first.prompt_ids[0]) // 16 * 16 > 0
        assert second.timing.tokens == len(second.prompt_ids[0]) - second.timing.reused_tokens + len(second.ids[0][0]) - 1
        assert second.ids == mine.chat(messages, 24, isolated=True).ids
        assert model.chat(messages, 2).timing.reused_tokens == 0, "of another principal"


def test_async_estimate_and_isolated(client):
    async def run() -> None:
        async with await fs.connect_async(client.target) as connected:
            model = await connected.model("smollm2-135m")
            estimate = await model.estimate_generate(STORY, 4)
            generation = await (await model.generate(STORY, 4, isolated=True)).read()
            assert generation.provenance.isolated
            assert estimate.tokens == generation.timing.tokens

    asyncio.run(run())
