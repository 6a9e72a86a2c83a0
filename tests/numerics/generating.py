"""Generate requests put together from the wire's own messages, and the slow way to do the same: a whole forward pass for every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from fluoroscope import wire
from fluoroscope._proto.v1 import inference_pb2, plan_pb2, tensor_pb2
from torch import Tensor

from .reference import Edit, Weights, trace
from .serving import Row, Server
from .slow_edits import philox

# Two prompts for the tiny checkpoints, and how many tokens they go on for.
IDS = [0, 17, 42, 250, 42, 7, 133]
SHORT = [5]
TOKENS = 9

GENERATED = plan_pb2.Positions(items=[plan_pb2.Positions.Item(generated=True)])
PROMPT = plan_pb2.Positions(items=[plan_pb2.Positions.Item(range=plan_pb2.Positions.Range())])


def at(message: plan_pb2.Intervention | plan_pb2.Capture, positions: plan_pb2.Positions) -> plan_pb2.Intervention | plan_pb2.Capture:
    """The message with these positions."""
    message.select.positions.CopyFrom(positions)
    return message


@dataclass
class Generated:
    """A whole reply."""

    header: inference_pb2.ForwardHeader
    summary: inference_pb2.ForwardSummary
    tokens: dict[tuple[int, int], list[inference_pb2.GeneratedToken]]  # by row and sample
    tensors: list[tuple[tensor_pb2.TensorHeader, np.ndarray]] = field(repr=False, default_factory=list)

    def ids(self, row: int = 0, sample: int = 0) -> list[int]:
        return [token.id for token in self.tokens[row, sample]]

    def text(self, row: int = 0, sample: int = 0) -> str:
        return "".join(token.text for token in self.tokens[row, sample])

    def of_token(self, name: str, position: int, row: int = 0, sample: int = 0, part: str = "") -> np.ndarray:
        found = [
            array for h, array in self.tensors
            if h.HasField("sample") and (h.name, h.row, h.sample, h.part, list(h.positions)) == (name, row, sample, part, [position])
        ]  # fmt: skip
        assert len(found) == 1, f"{len(found)} tensors {name} at {position} of row {row}, sample {sample}"
        return found[0]


def request(model: str, rows: Sequence[Row], max_new_tokens: int, *, sampling=None, **fields) -> inference_pb2.GenerateRequest:
    out = inference_pb2.GenerateRequest(model=model, max_new_tokens=max_new_tokens, **fields)
    if sampling is not None:
        out.sampling.CopyFrom(inference_pb2.Sampling(**sampling))
    for row in rows:
        out.prompts.add(text=row) if isinstance(row, str) else out.prompts.add(tokens=plan_pb2.TokenIds(ids=row))
    return out


def call(server: Server, message: inference_pb2.GenerateRequest, principal: str | None = None):
    """The stream of messages, as bytes. Without a principal the caller is its address."""
    method = server.channel.unary_stream("/fluoroscope.v1.Inference/Generate", inference_pb2.GenerateRequest.SerializeToString, None)
    return method(message, timeout=300, metadata=None if principal is None else [("x-fluoroscope-principal", principal)])


def read(messages) -> Generated:
    reader = wire.ReplyReader(lambda header, dtype, shape: np.empty(shape, dtype))
    tokens: dict[tuple[int, int], list[inference_pb2.GeneratedToken]] = {}
    for message in messages:
        part = inference_pb2.GenerateReply.FromString(message)
        if part.HasField("token"):
            so_far = tokens.setdefault((part.token.row, part.token.sample), [])
            assert part.token.index == len(so_far), "tokens of a continuation come in order"
            assert not so_far or not so_far[-1].HasField("finish_reason"), "nothing comes behind the last token"
            so_far.append(part.token)
        else:
            reader.feed(message)
    reply = reader.finish()
    return Generated(reply.header, reply.summary, tokens, reply.tensors)


def generate(server: Server, model: str, rows: Sequence[Row], max_new_tokens: int, principal: str | None = None, **options) -> Generated:
    return read(call(server, request(model, rows, max_new_tokens, **options), principal))


def estimate(server: Server, model: str, rows: Sequence[Row], max_new_tokens: int, **options) -> inference_pb2.EstimateReply:
    method = server.channel.unary_unary(
        "/fluoroscope.v1.Inference/EstimateGenerate",
        inference_pb2.GenerateRequest.SerializeToString,
        inference_pb2.EstimateReply.FromString,
    )
    return method(request(model, rows, max_new_tokens, **options), timeout=60)


# What happens to a site's value [positions, ...] in a run of so many positions.
Change = Callable[[Tensor, int], Tensor]


def slow_greedy(w: Weights, prompt: list[int], tokens: int, changes: dict[str, Change]) -> tuple[list[int], list[Tensor]]:
    """(ids, log-probabilities behind each): the whole sequence runs anew for every token, with the sites changed."""
    ids, logs = list(prompt), []

    def edit(name: str, value: Tensor) -> Tensor:
        return changes[name](value.clone(), len(ids)) if name in changes else value

    for _ in range(tokens):
        step: Edit = edit
        logits = trace(w, ids, step).logits[-1]
        logs.append(logits.log_softmax(-1))
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :], logs


def uniform(seed: int, sample: int, index: int) -> float:
    """The number that a token's draw takes, as the protocol says."""
    high, low = philox([index, sample, 0, 0x746F6B], seed)[:2]
    return ((high << 32 | low) >> 11) * 2.0**-53


def draw(scores: Tensor, u: float) -> tuple[int, float]:
    """(the token that the number u draws from the softmax of scores, how near u is to where it would be another)."""
    sums = scores.double().softmax(-1).cumsum(-1).numpy()
    token = int(np.searchsorted(sums, u, side="right"))
    return token, float(np.abs(sums - u).min())


def processed(logits: Tensor, said: list[int], *, temperature: float, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0) -> Tensor:
    """Scores [vocabulary] as transformers' own processors and warpers make them, in generate()'s order."""
    from transformers import generation

    steps = []
    if repetition_penalty != 1:
        steps.append(generation.RepetitionPenaltyLogitsProcessor(repetition_penalty))
    steps.append(generation.TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(generation.TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(generation.TopPLogitsWarper(top_p))
    if min_p:
        steps.append(generation.MinPLogitsWarper(min_p))
    scores, ids = logits[None].clone(), torch.tensor([said])
    for step in steps:
        scores = step(ids, scores)
    return scores[0]
