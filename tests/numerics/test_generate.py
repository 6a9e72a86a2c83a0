"""Generation against whole forward passes: transformers' generate(), the slow reference, and the server's own Forward."""

from __future__ import annotations

import threading
from collections import Counter

import grpc
import numpy as np
import pytest
import torch
from fluoroscope import wire
from fluoroscope._proto.v1 import plan_pb2

from . import generating
from .checkpoints import SPECS, load
from .compare import ALONE, LOGIT, TINY, assert_close
from .generating import GENERATED, PROMPT, at, generate
from .reference import trace, weights_of
from .serving import ALL_LOGITS, Server, capture, copy, edit, tensor
from .slow_edits import normal

IDS = [0, 17, 42, 250, 42, 7, 133]
SHORT = [5]
TOKENS = 9


@pytest.mark.parametrize("name", SPECS)
def test_every_step_is_the_whole_forward(server, weights, name):
    """Each site of each generated token, and the log-probabilities, as one Forward over the whole sequence has them."""
    got = generate(server, name, [IDS, SHORT], TOKENS, captures=[capture("*")], top_logprobs=100, ignore_eos=True)
    for row, prompt in enumerate((IDS, SHORT)):
        ids = prompt + got.ids(row)
        assert len(ids) == len(prompt) + TOKENS
        whole = server.forward(name, [ids], captures=[capture("*")], logits=ALL_LOGITS)
        logs = torch.tensor(whole.get("logits")).log_softmax(-1)
        reference = trace(weights(name), ids).logits.log_softmax(-1)
        for token in got.tokens[row, 0]:
            here = len(prompt) + token.index - 1
            assert token.id == int(logs[here].argmax())
            for expected in (logs, reference):
                assert abs(token.logprob - float(expected[here, token.id])) <= TINY
            assert [t.logprob for t in token.top] == pytest.approx(logs[here].topk(100).values.tolist(), abs=TINY)
            assert {t.id for t in token.top[:5]} == set(logs[here].topk(5).indices.tolist())
        for position in range(len(prompt), len(ids) - 1):
            for site, value in whole.sites().items():
                own = got.of_token(site, position, row)
                if site.endswith(("attn_scores", "pattern")):
                    expected = value[:, position : position + 1, : position + 1]
                else:
                    expected = value[position : position + 1]
                assert_close(own, expected, TINY, f"{name} {site} at {position} of row {row}")
    assert got.summary.tokens == len(IDS) + len(SHORT) + 2 * (TOKENS - 1)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two", "mqa-head20", "rope-bands-new"])
def test_alone_equals_in_a_batch(server, name):
    rows = [IDS, SHORT, IDS[:3], [299, 298, 1, 4] * 5]
    options = dict(captures=[at(capture("blocks.*.hook_resid_post"), GENERATED)], top_logprobs=5, ignore_eos=True)
    together = generate(server, name, rows, TOKENS, **options)
    for row, prompt in enumerate(rows):
        alone = generate(server, name, [prompt], TOKENS, **options)
        assert together.ids(row) == alone.ids()
        for a, b in zip(together.tokens[row, 0], alone.tokens[0, 0], strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=ALONE)
        for header, array in alone.tensors:
            assert_close(together.of_token(header.name, header.positions[0], row), array, ALONE, f"{name} {header.name} of row {row}")


# An edit's name, the message's kind, and what it makes of a line [d_model] at a position, in float64.
VECTOR = np.random.default_rng(0).standard_normal(48).astype(np.float32)
SECOND = np.random.default_rng(1).standard_normal(48).astype(np.float32)
SITE = "blocks.1.hook_resid_post"


def _projected(line: np.ndarray) -> np.ndarray:
    direction = VECTOR.astype(np.float64)
    return line - direction * (line @ direction) / (direction @ direction)


KINDS = {
    "add": (dict(add=plan_pb2.Add(value=tensor(VECTOR), scale=1.5)), lambda line, position: line + 1.5 * VECTOR),
    "set": (dict(set=plan_pb2.Set(value=tensor(VECTOR))), lambda line, position: VECTOR.astype(np.float64)),
    "zero": (dict(zero=plan_pb2.Zero()), lambda line, position: line * 0),
    "scale": (dict(scale=plan_pb2.Scale(factor=-0.7)), lambda line, position: line * -0.7),
    "mean": (dict(mean=plan_pb2.Mean(value=tensor(SECOND))), lambda line, position: SECOND.astype(np.float64)),
    "project_out": (dict(project_out=plan_pb2.ProjectOut(directions=tensor(VECTOR[None]))), lambda line, position: _projected(line)),
}


def changed(change, where: str, prompt: int):
    """The change of every line of a site's value in the part of the row that is meant."""

    def whole(value: torch.Tensor, length: int) -> torch.Tensor:
        for position in range(length):
            if where == "both" or (position < prompt) == (where == "prompt"):
                value[position] = torch.tensor(change(value[position].double().numpy(), position)).to(value.dtype)
        return value

    return whole


@pytest.mark.parametrize("where", ["prompt", "generated", "both"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_an_edit_does_what_the_slow_way_does(server, weights, name, kind, where):
    message, change = KINDS[kind]
    asked = edit(SITE, **message)
    if where != "both":
        at(asked, GENERATED if where == "generated" else PROMPT)
    got = generate(server, name, [IDS], TOKENS, interventions=[asked], ignore_eos=True, top_logprobs=20)
    ids, logs = generating.slow_greedy(weights(name), IDS, TOKENS, {SITE: changed(change, where, len(IDS))})
    assert got.ids() == ids
    for token, expected in zip(got.tokens[0, 0], logs, strict=True):
        assert [t.logprob for t in token.top] == pytest.approx(expected.topk(20).values.tolist(), abs=TINY)
    plain = generate(server, name, [IDS], TOKENS, ignore_eos=True)
    if where == "generated":  # what follows the prompt does not know of it yet
        assert got.tokens[0, 0][0].logprob == pytest.approx(plain.tokens[0, 0][0].logprob, abs=ALONE)
    moved = max(abs(a.logprob - b.logprob) for a, b in zip(got.tokens[0, 0], plain.tokens[0, 0], strict=True))
    assert moved > 1e-3, "the edit changes something"


def test_noise_is_that_of_its_place(server, weights):
    from fluoroscope._proto.v1.plan_pb2 import Noise

    name, seed = "gqa-tied-sharded", 2**33 + 7
    number = list(server.sites(name)).index("blocks.{l}.hook_resid_post") | 1 << 8
    asked = at(edit(SITE, noise=Noise(stddev=0.5, seed=seed)), GENERATED)

    def change(line, position):
        return line + 0.5 * np.array([normal(seed, 0, number, position, 0, unit) for unit in range(len(line))])

    got = generate(server, name, [IDS], TOKENS, interventions=[asked], ignore_eos=True, top_logprobs=20)
    ids, logs = generating.slow_greedy(weights(name), IDS, TOKENS, {SITE: changed(change, "generated", len(IDS))})
    assert got.ids() == ids
    for token, expected in zip(got.tokens[0, 0], logs, strict=True):
        assert [t.logprob for t in token.top] == pytest.approx(expected.topk(20).values.tolist(), abs=TINY)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_heads_and_patterns_of_generated_tokens(server, weights, name):
    """An ablated head, a pattern with one key switched off, and both edits of two rows that differ in one batch."""
    asked = [
        at(edit("blocks.1.attn.hook_z", heads=[2], rows=[0], zero=plan_pb2.Zero()), GENERATED),
        at(edit("blocks.2.attn.hook_pattern", heads=[0, 3], units=[2], rows=[0], scale=plan_pb2.Scale(factor=0.25)), GENERATED),
    ]
    got = generate(server, name, [IDS, IDS[:3]], TOKENS, interventions=asked, ignore_eos=True, top_logprobs=20)

    def z(value, length):
        value[len(IDS) :, 2] = 0
        return value

    def pattern(value, length):
        value[[0, 3], len(IDS) :, 2] *= 0.25
        return value

    changes = {"blocks.1.attn.hook_z": z, "blocks.2.attn.hook_pattern": pattern}
    for row, (prompt, edits) in enumerate([(IDS, changes), (IDS[:3], {})]):
        ids, logs = generating.slow_greedy(weights(name), prompt, TOKENS, edits)
        assert got.ids(row) == ids
        for token, expected in zip(got.tokens[row, 0], logs, strict=True):
            assert [t.logprob for t in token.top] == pytest.approx(expected.topk(20).values.tolist(), abs=TINY)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_a_patched_prompt_and_a_mean_for_generated_tokens(server, weights, name):
    """A source that only runs to be read from: it is patched into the prompt, and its mean into the generated tokens."""
    other = [9, 8, 7, 6, 5, 4, 3]
    mean = plan_pb2.Mean(of_rows=plan_pb2.Mean.OfRows(rows=[1]))
    asked = [copy("blocks.0.hook_resid_post", row=1, to=0, at=[2, 3]), at(edit("blocks.1.hook_mlp_out", rows=[0], mean=mean), GENERATED)]
    got = generate(server, name, [IDS, other], TOKENS, interventions=asked, sources=1, ignore_eos=True, top_logprobs=20)
    assert set(got.tokens) == {(0, 0)}, "the source generates nothing"
    source = trace(weights(name), other).sites

    def patch(value, length):
        value[[2, 3]] = source["blocks.0.hook_resid_post"][[2, 3]]
        return value

    def average(value, length):
        value[len(IDS) :] = source["blocks.1.hook_mlp_out"].mean(0)
        return value

    ids, logs = generating.slow_greedy(weights(name), IDS, TOKENS, {"blocks.0.hook_resid_post": patch, "blocks.1.hook_mlp_out": average})
    assert got.ids() == ids
    for token, expected in zip(got.tokens[0, 0], logs, strict=True):
        assert [t.logprob for t in token.top] == pytest.approx(expected.topk(20).values.tolist(), abs=TINY)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_a_mean_over_a_prompt_that_generates_too(server, weights, name):
    """The values that the mean reads are also the other row's cache."""
    other = [9, 8, 7, 6, 5, 4, 3]
    mean = plan_pb2.Mean(of_rows=plan_pb2.Mean.OfRows(rows=[1]))
    asked = [at(edit("blocks.1.attn.hook_v", rows=[0], mean=mean), GENERATED)]
    got = generate(server, name, [IDS, other], TOKENS, interventions=asked, ignore_eos=True, top_logprobs=20)
    source = trace(weights(name), other).sites["blocks.1.attn.hook_v"]

    def average(value, length):
        value[len(IDS) :] = source.mean(0)
        return value

    for row, (prompt, changes) in enumerate([(IDS, {"blocks.1.attn.hook_v": average}), (other, {})]):
        ids, logs = generating.slow_greedy(weights(name), prompt, TOKENS, changes)
        assert got.ids(row) == ids
        for token, expected in zip(got.tokens[row, 0], logs, strict=True):
            assert [t.logprob for t in token.top] == pytest.approx(expected.topk(20).values.tolist(), abs=TINY)


SAMPLINGS = [
    dict(temperature=1.0),
    dict(temperature=0.7, top_k=8),
    dict(temperature=1.3, top_p=0.6),
    dict(temperature=1.1, min_p=0.2),
    dict(temperature=0.9, repetition_penalty=1.7),
    dict(temperature=1.5, top_k=40, top_p=0.8, min_p=0.05, repetition_penalty=1.3),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: "-".join(s))
@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_draws_are_those_of_transformers_processors(server, name, sampling):
    """Every token of every sample: the server's logits through transformers' own processors, then the number that the protocol says is drawn."""
    seed, samples = 2**40 + 3, 40
    got = generate(server, name, [IDS], 6, sampling=sampling | dict(seed=seed), samples=samples, ignore_eos=True)
    rows = [IDS + got.ids(0, sample) for sample in range(samples)]
    whole = server.forward(name, rows, logits=ALL_LOGITS)
    near = 0
    for sample, ids in enumerate(rows):
        for token in got.tokens[0, sample]:
            so_far = ids[: len(IDS) + token.index]
            logits = torch.tensor(whole.get("logits", sample)[len(so_far) - 1])
            assert token.logprob == pytest.approx(float(logits.log_softmax(-1)[token.id]), abs=TINY), "of the model's own distribution"
            scores = generating.processed(logits, so_far, **sampling)
            expected, distance = generating.draw(scores, generating.uniform(seed, sample, token.index))
            if distance < 1e-5:
                near += 1  # rounding decides
                continue
            assert token.id == expected, f"sample {sample}, token {token.index}: {distance}"
    assert near < 5
    assert len({tuple(got.ids(0, sample)) for sample in range(samples)}) > samples // 2


def test_the_repetition_penalty_without_a_temperature(server):
    name = "gqa-tied-sharded"
    got = generate(server, name, [IDS], 12, sampling=dict(repetition_penalty=1.8), ignore_eos=True)
    ids = IDS + got.ids()
    logits = torch.tensor(server.forward(name, [ids], logits=ALL_LOGITS).get("logits"))
    for i in range(len(IDS), len(ids)):
        assert ids[i] == int(generating.processed(logits[i - 1], ids[:i], temperature=1.0, repetition_penalty=1.8).argmax())
    assert got.ids() != generate(server, name, [IDS], 12, ignore_eos=True).ids()


def test_draws_follow_the_distribution(server):
    """4,000 draws of one token against the softmax: a chi-squared test with a fixed seed, so it passes always or never."""
    name, draws = "gqa-tied-sharded", 1000
    logits = torch.tensor(server.forward(name, [IDS], logits=ALL_LOGITS).get("logits")[-1])
    expected = (logits.double() / 1.2).softmax(-1).numpy()
    counts: Counter[int] = Counter()
    for seed in range(4):
        got = generate(server, name, [IDS], 1, sampling=dict(temperature=1.2, seed=seed), samples=draws)
        counts.update(got.ids(0, sample)[0] for sample in range(draws))
    often = expected * 4 * draws >= 8
    seen = np.array([counts[token] for token in range(len(expected))], dtype=float)
    observed, wanted = np.append(seen[often], seen[~often].sum()), np.append(expected[often], expected[~often].sum()) * 4 * draws
    chi2 = ((observed - wanted) ** 2 / wanted).sum()
    freedom = len(observed) - 1
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5, f"{chi2:.1f} with {freedom} degrees of freedom"


def test_the_same_seed_among_many(server):
    """Samples, prompts and other requests in the same steps change nothing."""
    name, options = "gqa-tied-sharded", dict(sampling=dict(temperature=1.0, seed=11), ignore_eos=True)
    alone = generate(server, name, [IDS], 30, **options)
    got: dict[int, generating.Generated] = {}

    def run(i: int) -> None:
        got[i] = generate(server, name, [SHORT] * (i % 3) + [IDS], 30, samples=1 + i % 2, **options)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        assert got[i].ids(i % 3) == alone.ids()
        if i % 2:
            assert got[i].ids(i % 3, 1) != alone.ids()


def test_finish_reasons(server):
    name = "gqa-tied-sharded"
    plain = generate(server, name, [IDS], 40, ignore_eos=True)
    ends = generate(server, name, [IDS], 40)
    if 1 in plain.ids():  # </s>
        assert ends.ids() == plain.ids()[: plain.ids().index(1) + 1]
        assert ends.tokens[0, 0][-1].finish_reason == 2 and ends.tokens[0, 0][-1].text == ""
    else:
        assert ends.ids() == plain.ids() and ends.tokens[0, 0][-1].finish_reason == 1
    # A prompt whose next token is the end: found by making it the most likely one.
    big = np.zeros(48, np.float32)
    embed = load_unembedding(server, name)
    big += 50 * embed / np.linalg.norm(embed)
    steered = edit("blocks.2.hook_resid_post", set=plan_pb2.Set(value=tensor(big)))
    ended = generate(server, name, [IDS], 5, interventions=[steered])
    assert ended.ids() == [1] and ended.tokens[0, 0][0].finish_reason == 2 and ended.text() == ""
    assert generate(server, name, [IDS], 5, interventions=[steered], ignore_eos=True).ids() == [1] * 5


def load_unembedding(server, name: str) -> np.ndarray:
    """The residual direction that makes </s> most likely, through the final norm's weights."""
    from fluoroscope._proto.v1 import inference_pb2, models_pb2
    from fluoroscope.wire import read_reply

    def weight(of: str) -> np.ndarray:
        method = server.channel.unary_stream("/fluoroscope.v1.Models/ReadWeights", models_pb2.ReadWeightsRequest.SerializeToString, None)
        reply = read_reply(method(models_pb2.ReadWeightsRequest(model=name, name=of)), lambda h, dtype, shape: np.empty(shape, dtype))
        assert isinstance(reply.header, inference_pb2.ForwardHeader)
        return reply.tensors[0][1]

    return weight("unembed.W_U")[:, 1] * weight("ln_final.w")


BAD = [
    (dict(sampling=dict(temperature=-0.5)), "sampling.temperature is -0.5; it must be finite and at least 0"),
    (dict(sampling=dict(temperature=float("nan"))), "sampling.temperature is nan"),
    (dict(sampling=dict(temperature=float("inf"))), "sampling.temperature is inf"),
    (dict(sampling=dict(temperature=1e-9)), "at least 1e-06"),
    (dict(sampling=dict(top_p=1.01)), "sampling.top_p is 1.01; it must be over 0 and at most 1"),
    (dict(sampling=dict(top_p=0.0)), "sampling.top_p is 0"),
    (dict(sampling=dict(min_p=-0.1)), "sampling.min_p is -0.1; it must be from 0 to 1"),
    (dict(sampling=dict(repetition_penalty=0.0)), "sampling.repetition_penalty is 0"),
    (dict(sampling=dict(top_k=301)), "sampling.top_k is 301; gqa-tied-sharded has a vocabulary of 300"),
    (dict(max_new_tokens=0), "max_new_tokens is 0; it must be at least 1"),
    (dict(max_new_tokens=58), "max_new_tokens is 58 and prompts[0] has 7 tokens; together they must fit the context of gqa-tied-sharded, 64"),
    (dict(stop=[""]), "stop[0] is empty"),
    (dict(stop=["a"] * 65), "stop has 65 entries"),
    (dict(stop=["a" * 2000]), "stop[0] has 2000 bytes; at most 1024"),
    (dict(samples=0), "samples is 0"),
    (dict(samples=2), "samples is 2 with temperature 0"),
    (dict(samples=4096, sampling=dict(temperature=1.0)), "prompts times samples is 4096"),
    (dict(top_logprobs=101), "top_logprobs is 101; at most 100"),
    (dict(sources=1), "sources is 1 of 1 prompts"),
    (dict(captures=[at(capture("hook_embed", last=True), GENERATED)]), "they exclude each other"),
    (dict(captures=[capture("hook_embed", at=[7])]), "position 7 is outside the row, which has 7 tokens"),
    (dict(captures=[capture("nonsense")]), "no hook point 'nonsense'"),
    (dict(interventions=[at(edit("blocks.0.attn.hook_pattern", set=plan_pb2.Set(value=tensor(np.ones(7, np.float32)))), GENERATED)]),
     "a number for each key"),
    (dict(interventions=[edit("hook_embed", add=plan_pb2.Add(value=tensor(np.ones((7, 48), np.float32))))]), "[7, 48]"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_requests_are_refused_in_words(server, options, words):
    options = dict(max_new_tokens=4) | options
    with pytest.raises(grpc.RpcError) as refused:
        generate(server, "gqa-tied-sharded", [IDS], options.pop("max_new_tokens"), **options)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND)
    assert words in refused.value.details()


def test_unknown_fields_and_activations_are_refused(server):
    message = generating.request("gqa-tied-sharded", [IDS], 4)
    message.MergeFromString(bytes([0xF8, 0x06, 0x01]))  # field 111
    with pytest.raises(grpc.RpcError, match="111") as refused:
        generating.read(generating.call(server, message))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    message = generating.request("gqa-tied-sharded", [], 4)
    message.prompts.add(activations=plan_pb2.Activations(start_at="blocks.1.hook_resid_pre", value=tensor(np.zeros((2, 48), np.float32))))
    with pytest.raises(grpc.RpcError, match="needs text or token ids"):
        generating.read(generating.call(server, message))


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_steps_are_the_whole_forward(checkpoints, tmp_path, dtype):
    """Attention of the library's, keys and values in half precision. A number has 8 (11) bits, and logits here are up to about 5, so steps of
    0.03 (0.004) apart: the two ways round differently, by a few of them."""
    limit = {"bf16": 0.15, "f16": 0.02}[dtype]
    names = ["gqa-tied-sharded", "two"]
    server = Server({name: (checkpoints[name].path, dtype) for name in names}, tmp_path)
    try:
        for name in names:
            got = generate(server, name, [IDS, SHORT], TOKENS, captures=[at(capture("blocks.1.attn.hook_k"), GENERATED)], top_logprobs=10, ignore_eos=True)
            rows = [IDS + got.ids(0), SHORT + got.ids(1)]
            whole = server.forward(name, rows, captures=[capture("blocks.1.attn.hook_k")], logits=ALL_LOGITS)
            for row, ids in enumerate(rows):
                logits = whole.get("logits", row)
                logits = wire.widen_bf16(logits) if dtype == "bf16" else logits.astype(np.float32)
                logs = torch.tensor(logits).log_softmax(-1)
                for token in got.tokens[row, 0]:
                    here = len(ids) - TOKENS + token.index - 1
                    assert [t.logprob for t in token.top] == pytest.approx(logs[here].topk(10).values.tolist(), abs=limit)
                assert got.of_token("blocks.1.attn.hook_k", len(ids) - 2, row).dtype == (np.uint16 if dtype == "bf16" else np.float16)
    finally:
        server.stop()


# SmolLM2.

PROMPTS = [
    "Once upon a time", "The capital of France is", "When John and Mary went to the shops, John gave the bag to", "def fibonacci(n):",
    "The three most important things in life are", "In the year 2050,", "Q: What is the boiling point of water?\nA:", "Dear Sir or Madam,",
    "The quick brown fox", "To be, or not to be,", "1, 2, 3, 4, 5,", "A recipe for pancakes:\n", "The moon is", "import numpy as np\n",
    "My favourite colour is", "It was a dark and stormy night;", "Photosynthesis is the process by which", "Le chat est",
    "The president of the company announced", "Roses are red,",
]  # fmt: skip
NAME = "smollm2-135m"
TIE = 1e-3


@pytest.fixture(scope="module")
def path():
    from fluoroscope.fetch import fetch

    return fetch(NAME)


@pytest.fixture(scope="module")
def smollm2(path, tmp_path_factory):
    running = Server({NAME: path}, tmp_path_factory.mktemp("smollm2"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def theirs(path):
    return load(path)


def test_greedy_equals_transformers(smollm2, theirs, path, record_property):
    """20 prompts of 64 tokens, in one request. Where the two differ, the two best logits must be a near-tie."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    got = generate(smollm2, NAME, PROMPTS, 64)
    ties = []
    for row, prompt in enumerate(PROMPTS):
        encoded = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            output = theirs.generate(**encoded, max_new_tokens=64, do_sample=False, pad_token_id=tokenizer.eos_token_id)[0]
            prompt_ids, expected = encoded["input_ids"][0].tolist(), output[encoded["input_ids"].shape[1] :].tolist()
            assert list(got.header.rows[row].token_ids) == prompt_ids
            if got.ids(row) == expected:
                assert got.text(row) == tokenizer.decode([i for i in expected if i != tokenizer.eos_token_id])
                continue
            first = next(i for i, (a, b) in enumerate(zip(got.ids(row), expected, strict=False)) if a != b)
            logits = theirs(output[None, : len(prompt_ids) + first]).logits[0, -1]
        gap = float(logits[expected[first]] - logits[got.ids(row)[first]])
        assert 0 <= gap < TIE, f"{prompt!r}: token {first} is {got.ids(row)[first]}, transformers' {expected[first]}, {gap} more likely"
        ties.append((prompt, first, gap))
    record_property("near-ties", str(ties))
    print("near-ties:", ties)
    assert len(ties) <= 2


def test_steps_of_a_real_model_are_the_whole_forward(smollm2):
    got = generate(smollm2, NAME, PROMPTS[:3], 40, top_logprobs=50, ignore_eos=True)
    rows = [list(got.header.rows[row].token_ids) + got.ids(row) for row in range(3)]
    whole = smollm2.forward(NAME, rows, logits=ALL_LOGITS)
    for row, ids in enumerate(rows):
        logs = torch.tensor(whole.get("logits", row)).log_softmax(-1)
        for token in got.tokens[row, 0]:
            here = len(ids) - 40 + token.index - 1
            best = logs[here].topk(50)
            assert [t.logprob for t in token.top] == pytest.approx(best.values.tolist(), abs=LOGIT)
            assert token.logprob == token.top[0].logprob


def test_steering_a_real_model(smollm2, theirs, path):
    """fs.add on generated tokens against the reference, which runs the whole sequence for each."""
    w = weights_of(theirs)
    site, steps = "blocks.10.hook_resid_post", 12
    direction = np.random.default_rng(5).standard_normal(576).astype(np.float32)
    asked = at(edit(site, add=plan_pb2.Add(value=tensor(direction), scale=6.0)), GENERATED)
    got = generate(smollm2, NAME, [PROMPTS[0]], steps, interventions=[asked], top_logprobs=20, ignore_eos=True)
    prompt = list(got.header.rows[0].token_ids)

    def steer(value, length):
        value[len(prompt) :] += 6.0 * torch.tensor(direction)
        return value

    ids, logs = generating.slow_greedy(w, prompt, steps, {site: steer})
    assert got.ids() == ids
    assert got.ids() != generate(smollm2, NAME, [PROMPTS[0]], steps, ignore_eos=True).ids(), "it steers"
    for token, expected in zip(got.tokens[0, 0], logs, strict=True):
        assert [t.logprob for t in token.top] == pytest.approx(expected.topk(20).values.tolist(), abs=LOGIT)
