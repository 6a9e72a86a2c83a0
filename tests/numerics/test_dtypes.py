"""Weights in half precision: kept as the file has them, or cast as configured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import tensor_pb2

from .checkpoints import SPECS, load, make
from .compare import TINY, assert_close, assert_vectors_alike
from .reference import trace, weights_of
from .serving import ALL_LOGITS, Server, capture

IDS = [0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81]
# Steps of 2^-8 and 2^-11 in every weight and value, through three layers.
LIMITS = {"bf16": 0.03, "f16": 0.004}
NATIVE = {"bf16": tensor_pb2.DTYPE_BF16, "f16": tensor_pb2.DTYPE_F16}
BASES = ["gqa-tied-sharded", "two"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    names = {"bf16": "bfloat16", "f16": "float16"}
    return {f"{base}-{short}": make(f"{base}-{short}", dataclasses.replace(SPECS[base], dtype=long), folder) for base in BASES for short, long in names.items()}


@pytest.fixture(scope="module")
def halves(paths, tmp_path_factory):
    models = dict(paths) | {f"{name}-as-f32": (path, "f32") for name, path in paths.items()}
    running = Server(models, tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_files_cast_to_f32(halves, paths, base, dtype):
    """The cast is exact, so the limits of float32 hold."""
    name = f"{base}-{dtype}"
    expected = trace(weights_of(load(paths[name])), IDS)
    result = halves.forward(f"{name}-as-f32", [IDS], captures=[capture("*")], logits=ALL_LOGITS)
    assert {header.dtype for header, _ in result.reply.tensors} == {tensor_pb2.DTYPE_F32}
    assert_close(result.get("logits"), expected.logits, TINY, "logits")
    for site, value in expected.sites.items():
        assert_close(result.get(site), value, TINY, site)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_arithmetic(halves, paths, base, dtype):
    name = f"{base}-{dtype}"
    expected = trace(weights_of(load(paths[name])), IDS)
    result = halves.forward(name, [IDS], captures=[capture(["blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"])], logits=ALL_LOGITS)
    assert result.reply.header.provenance.dtype == dtype
    assert len(result.sites()) == 9
    for header, raw in result.reply.tensors:
        assert header.dtype == NATIVE[dtype], f"{header.name} came as {tensor_pb2.DType.Name(header.dtype)}"
        value = widened(header.dtype, raw)
        assert_vectors_alike(value, expected.logits if header.name == "logits" else expected.sites[header.name], LIMITS[dtype], header.name)


def widened(dtype: int, raw: np.ndarray) -> np.ndarray:
    """float32 from the wire's dtype; bf16 travels as its bits."""
    if dtype == tensor_pb2.DTYPE_BF16:
        return torch.from_numpy(raw.astype(np.int32) << 16).view(torch.float32).numpy()
    return raw.astype(np.float32)
