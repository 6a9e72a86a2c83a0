"""What a generation request may not say."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from fluoroscope._proto.v1 import plan_pb2

from . import generating
from .generating import GENERATED, IDS, at, generate
from .serving import capture, edit, tensor

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
