"""Checkpoints and one server for all numerics tests: made once for the session."""

from __future__ import annotations

import os

import fluoroscope as fs
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from .checkpoints import SPECS, Checkpoint, make  # noqa: E402
from .reference import Weights, weights_of  # noqa: E402
from .serving import Server  # noqa: E402


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


@pytest.fixture(scope="module")
def client(server):
    """A connection to it."""
    with fs.connect(server.address) as connected:
        yield connected
