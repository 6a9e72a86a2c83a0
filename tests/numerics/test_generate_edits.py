"""Interventions on prompts and generated tokens against the slow reference, which runs the whole sequence anew for every token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from . import generating
from .compare import ALONE, TINY
from .generating import GENERATED, IDS, PROMPT, TOKENS, at, generate
from .reference import trace
from .serving import copy, edit, tensor
from .slow_edits import normal

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
