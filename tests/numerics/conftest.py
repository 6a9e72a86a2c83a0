"""Checkpoints and one server for all numerics tests: made once for the session."""

from __future__ import annotations

import os
from pathlib import Path

import fluoroscope as fs
import pytest
import torch
from fluoroscope.fetch import fetch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from .checkpoints import SPECS, Checkpoint, load, make  # noqa: E402
from .reference import Weights, weights_of  # noqa: E402
from .serving import SMOLLM2, Server  # noqa: E402


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("tiny")
    return {name: Checkpoint(name, spec, make(name, spec, folder)) for name, spec in SPECS.items()}


@pytest.fixture(scope="session")
def checkpoint(checkpoints):
    return checkpoints.__getitem__


def _reader(checkpoints: dict[str, Checkpoint], dtype: torch.dtype):
    """The reference's weights of a checkpoint by its name, read once."""
    kept: dict[str, Weights] = {}

    def of(name: str) -> Weights:
        if name not in kept:
            kept[name] = weights_of(checkpoints[name].model, dtype)
        return kept[name]

    return of


@pytest.fixture(scope="session")
def weights(checkpoints):
    """The reference's weights in float32."""
    return _reader(checkpoints, torch.float32)


@pytest.fixture(scope="session")
def exact(checkpoints):
    """The same in float64."""
    return _reader(checkpoints, torch.float64)


@pytest.fixture(scope="session")
def server(checkpoints, tmp_path_factory):
    """One server with every tiny checkpoint."""
    running = Server({name: made.path for name, made in checkpoints.items()}, tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """A real model, SmolLM2-135M; made in the model store if it is missing."""
    return fetch(SMOLLM2)


@pytest.fixture(scope="module")
def smollm2(smollm2_path, tmp_path_factory):
    """A server with it alone, for as long as a module needs it."""
    running = Server({SMOLLM2: smollm2_path}, tmp_path_factory.mktemp("smollm2"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def smollm2_torch(smollm2_path):
    """The same as transformers has it; a module may change it."""
    return load(smollm2_path)


@pytest.fixture(scope="module")
def client(server):
    """A connection to it."""
    with fs.connect(server.address) as connected:
        yield connected
