"""How tokens are drawn, against transformers' own processors and the number that the protocol says is drawn; and what ends a continuation."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from . import generating
from .compare import TINY
from .generating import IDS, SHORT, generate
from .serving import ALL_LOGITS, edit, tensor

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
