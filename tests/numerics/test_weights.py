"""Weights by name are TransformerLens's, bit for bit, whole and in slices."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from fluoroscope import wire
from fluoroscope._proto.v1 import models_pb2

from . import lens
from .checkpoints import SPECS

IN_LENS = [name for name, spec in SPECS.items() if spec.in_transformer_lens]


def stub(server, name: str):
    answers = {"ListWeights": models_pb2.ListWeightsReply.FromString, "ReadWeights": None}
    make = server.channel.unary_stream if name == "ReadWeights" else server.channel.unary_unary
    return make(f"/fluoroscope.v1.Models/{name}", lambda message: message.SerializeToString(), answers[name])


def listed(server, model: str) -> dict[str, models_pb2.Weight]:
    return {weight.name: weight for weight in stub(server, "ListWeights")(models_pb2.ListWeightsRequest(model=model)).weights}


def read(server, model: str, name: str, *slices) -> np.ndarray:
    """A slice is (start, end) or a list of indices."""
    request = models_pb2.ReadWeightsRequest(model=model, name=name)
    for part in slices:
        if isinstance(part, list):
            request.slices.add(at=models_pb2.AxisSlice.Indices(indices=part))
        else:
            request.slices.add(range=models_pb2.AxisSlice.Range(start=part[0], end=part[1]))
    reply = wire.read_reply(stub(server, "ReadWeights")(request, timeout=60), lambda header, dtype, shape: np.empty(shape, dtype))
    ((header, value),) = reply.tensors
    assert header.name == name and not reply.header.rows and reply.header.provenance.model == model
    return value


@pytest.mark.parametrize("name", IN_LENS)
def test_names_shapes_and_numbers_are_transformer_lens(server, checkpoint, name):
    made = checkpoint(name)
    theirs = {key.replace("._W_", ".W_").replace("._b_", ".b_"): value for key, value in lens.load(made.path, made.model).state_dict().items()}
    ours = listed(server, name)
    for key, value in theirs.items():
        # What TransformerLens fills with zeros because the model has none, and its buffers, are no weights.
        if key not in ours:
            assert key.endswith(("mask", "IGNORE", "rotary_sin", "rotary_cos")) or not value.any(), key
    for key, weight in ours.items():
        assert key in theirs, key
        assert tuple(weight.shape) == tuple(theirs[key].shape) and len(weight.axes) == len(weight.shape)
        np.testing.assert_array_equal(read(server, name, key), theirs[key].numpy(), err_msg=key)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "biases", "two"])
def test_slices_are_numpys(server, name):
    for key in ("blocks.1.attn.W_Q", "blocks.0.attn.W_O", "blocks.1.mlp.W_in", "unembed.W_U", "embed.W_E", "ln_final.w"):
        whole = read(server, name, key)
        first, last = whole.shape[0], whole.shape[-1]
        np.testing.assert_array_equal(read(server, name, key, (1, first)), whole[1:])
        np.testing.assert_array_equal(read(server, name, key, (-2, -1)), whole[-2:-1])
        np.testing.assert_array_equal(read(server, name, key, [first - 1, 0, 0, -1]), whole[[-1, 0, 0, -1]])
        everything = [(0, size) for size in whole.shape[:-1]]
        np.testing.assert_array_equal(read(server, name, key, *everything, (last // 2, last)), whole[..., last // 2 :])
        if whole.ndim > 1:
            np.testing.assert_array_equal(read(server, name, key, [1, 0], (0, 2)), whole[[1, 0], :2])
            np.testing.assert_array_equal(read(server, name, key, [1, 0], [3, -1, 2]), whole[[1, 0]][:, [3, -1, 2]])


def test_what_is_wrong_is_said(server):
    def refused(code, words, *args):
        with pytest.raises(grpc.RpcError) as error:
            read(server, *args)
        assert error.value.code() == code, error.value.details()
        for word in words:
            assert word in error.value.details(), error.value.details()

    size = listed(server, "two")["blocks.0.mlp.W_in"].shape[0]
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    refused(missing, ["blocks.99.attn.W_Q", "blocks.{l}.attn.W_Q", "embed.W_E", "from 0 to"], "two", "blocks.99.attn.W_Q")
    refused(missing, ["no model 'nobody'"], "nobody", "embed.W_E")
    refused(invalid, ["name is empty"], "two", "")
    refused(invalid, ["slices[0].range.end", str(size + 1), str(size)], "two", "blocks.0.mlp.W_in", (0, size + 1))
    refused(invalid, ["slices[0].range is empty"], "two", "blocks.0.mlp.W_in", (3, 3))
    refused(invalid, ["slices[1].at.indices", "-10000"], "two", "blocks.0.mlp.W_in", (0, 1), [0, -10000])
    refused(invalid, ["slices[0].at.indices is empty"], "two", "blocks.0.mlp.W_in", [])
    refused(invalid, ["slices has 3 entries", "d_model, d_mlp"], "two", "blocks.0.mlp.W_in", (0, 1), (0, 1), (0, 1))
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, ["8"], "two", "blocks.0.mlp.W_in", *[(0, 1)] * 9)
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, ["4096"], "two", "blocks.0.mlp.W_in", [0] * 5000)
