"""The client for asyncio: the same surface and answers, many calls at a time, and a cancelled task frees the server."""

import asyncio
import inspect
import threading
import time
import urllib.request

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope.underway import UNDERWAY, Underway

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
DIFF = fs.metrics.logit_diff(" Mary", " John")
LONG = [list(range(100, 1100))] * 64  # 64,000 tokens: minutes


def public(of: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(of, callable) if not name.startswith("_")}


def test_the_surface_is_the_same():
    transport = {"unary", "stream", "upload"}  # for the package's own use
    weights = {"weight", "weight_infos"}  # for model.weights[...], which nothing can await
    assert public(fs.AsyncModel) == public(fs.Model) | weights
    assert public(fs.AsyncClient) == public(fs.Client) - transport
    for name in public(fs.AsyncModel) - weights - {"hooks"}:
        method, awaited = getattr(fs.Model, name), getattr(fs.AsyncModel, name)
        assert inspect.iscoroutinefunction(awaited), name
        assert inspect.signature(awaited) == inspect.signature(method) and awaited.__doc__ == method.__doc__, name


def test_answers_are_the_same(client, model):
    patch = fs.patch("blocks.12.hook_resid_pre", source=CLEAN)

    async def ask():
        running = await fs.connect_async(client.target)
        assert [info.name for info in await running.models()] == ["smollm2-135m"]
        other = await running.model("smollm2-135m")
        assert (other.name, other.info, repr(other)) == (model.name, model.info, f"Async{model!r}")
        assert other.hooks().names() == model.hooks().names()
        answers = await asyncio.gather(
            other.tokenize(CLEAN),
            other.detokenize([504, 3575]),
            other.run_with_cache(CLEAN, "blocks.3.hook_resid_pre", isolated=True),
            other.run_with_hooks(CORRUPT, [patch], metrics=[DIFF], isolated=True),
            other.top_tokens(CLEAN, k=3),
            other.estimate(CLEAN),
            other.sweep(CLEAN, CORRUPT, layers=[0, 15], metric=DIFF, progress=False),
        )
        np.testing.assert_array_equal(await other.weight("blocks.3.attn.W_Q", 2, slice(10)), model.weights["blocks.3.attn.W_Q", 2, :10])
        assert await other.weight_infos() == [model.weights.info(name) for name in model.weights]
        await running.close()
        await running.close()
        return answers

    tokens, text, (logits, cache), patched, top, estimate, sweep = asyncio.run(ask())
    assert tokens == model.tokenize(CLEAN) and text == model.detokenize([504, 3575])
    expected_logits, expected = model.run_with_cache(CLEAN, "blocks.3.hook_resid_pre", isolated=True)
    np.testing.assert_array_equal(logits, expected_logits)
    np.testing.assert_array_equal(cache["resid_pre", 3], expected["resid_pre", 3])
    assert patched.metrics[DIFF] == model.run_with_hooks(CORRUPT, [patch], metrics=[DIFF], isolated=True).metrics[DIFF]
    assert [token.id for token in top] == [token.id for token in model.top_tokens(CLEAN, k=3)]
    assert estimate == model.estimate(CLEAN)
    np.testing.assert_allclose(sweep.values, model.sweep(CLEAN, CORRUPT, layers=[0, 15], metric=DIFF, progress=False).values, atol=5e-4)


def test_errors_are_the_same(client):
    async def ask():
        running = fs.AsyncClient(client.target, timeout=30)
        with pytest.raises(fs.NotFoundError, match="smollm2-135m"):
            await running.model("nothing")
        model = await running.model("smollm2-135m")
        with pytest.raises(fs.InvalidArgumentError):
            await model.run_with_hooks(CLEAN, [fs.zero(fs.at("hook_embed", positions=99))])
        with pytest.raises(fs.DeadlineExceededError):
            await model.run_with_cache(LONG, (), logits="last", timeout=0.2)
        await running.close()
        with pytest.raises(fs.FluoroscopeError, match="this client, of .*, is closed: connect again with fs.connect"):
            await model.tokenize(CLEAN)
        with pytest.raises(ValueError, match="a timeout of its own"):
            fs.AsyncClient(client, timeout=3)
        with pytest.raises(fs.UnavailableError):
            await fs.connect_async("127.0.0.1:1", timeout=2)

    asyncio.run(ask())


def cancelled(client) -> float:
    """How many Forward calls the server has seen cancelled."""
    with urllib.request.urlopen(f"http://{client.server.http_address}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    wanted = ('fluoroscope_rpcs_total{', 'code="CANCELLED"', 'method="Inference.Forward"')
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(part in line for part in wanted))


@pytest.mark.parametrize("wait", [0, 0.02, 0.5])
def test_cancelling_the_task_reaches_the_server(client, wait):
    async def ask() -> float:
        async with fs.AsyncClient(client.target) as running:
            model = await running.model("smollm2-135m")
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            call = asyncio.create_task(model.run_with_cache(LONG, (), logits="last"))
            await asyncio.sleep(wait)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert ticks >= wait / 0.1, "the loop went on meanwhile"
            ticking.cancel()
            start = time.monotonic()
            assert (await model.top_tokens("The capital of France is", k=1))[0].token == " Paris"
            return time.monotonic() - start

    before = cancelled(client)
    assert asyncio.run(ask()) < 30, "the server went on with what nobody waits for"
    if wait >= 0.5:  # it was certainly there
        deadline = time.monotonic() + 10
        while cancelled(client) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert cancelled(client) == before + 1


def test_asyncio_timeout_ends_a_call(client):
    async def ask():
        async with fs.AsyncClient(client.target) as running:
            model = await running.model("smollm2-135m")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await model.run_with_cache(LONG, (), logits="last")

    asyncio.run(ask())


def test_more_calls_than_threads_take_turns(client):
    async def ask():
        async with fs.AsyncClient(client.target, calls=2) as running:
            model = await running.model("smollm2-135m")
            runs = [model.run_with_hooks(CLEAN, [fs.scale(("resid_pre", 5), 1 + i)], metrics=[DIFF], logits=None) for i in range(12)]
            found = [float(run.metrics[DIFF][0]) for run in await asyncio.gather(*runs)]
            assert len(set(found)) == 12 and found[0] == pytest.approx(3.12, abs=0.01)
            # What waits for its turn and is cancelled is never sent.
            sent = len(threads())
            calls = [asyncio.create_task(model.run_with_cache(LONG, (), logits="last")) for _ in range(3)]
            await asyncio.sleep(0.2)
            for call in calls:
                call.cancel()
            assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True))
            assert len(threads()) <= max(sent, 2)

    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("fluoroscope-call")]

    asyncio.run(ask())


class Call:
    def __init__(self):
        self.cancelled = 0

    def cancel(self):
        self.cancelled += 1


def test_work_that_was_cancelled_starts_nothing_more():
    work, first, second = Underway(), Call(), Call()
    work.started(first)
    assert first.cancelled == 0
    work.cancel()
    assert first.cancelled == 1
    work.started(second)
    assert second.cancelled == 1
    assert UNDERWAY.get() is None, "plain calls belong to nobody's work"


def test_what_cannot_be_awaited_says_what_can(client):
    async def run():
        model = await fs.AsyncClient(client).model("smollm2-135m")
        with pytest.raises(AttributeError, match=r'await model.weight\("blocks.3.attn.W_Q"\)'):
            model.weights["W_Q"]
        with pytest.raises(AttributeError, match="has no attribute 'wieght'"):
            model.wieght  # noqa: B018
        generation = await model.generate("Once", 2)
        with pytest.raises(AttributeError, match=r"\(await generation.read\(\)\).text"):
            generation.text  # noqa: B018
        with pytest.raises(AttributeError, match="has no attribute 'txt'"):
            generation.txt  # noqa: B018
        assert (await generation.read()).text

    asyncio.run(run())
