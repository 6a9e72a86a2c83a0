"""Checkpoints and one server for all numerics tests: made once for the session."""

from __future__ import annotations

import os

import pytest

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


@pytest.fixture(scope="session")
def weights(checkpoints):
    """The reference's weights of a checkpoint, read once."""
    kept: dict[str, Weights] = {}

    def of(name: str) -> Weights:
        if name not in kept:
            kept[name] = weights_of(checkpoints[name].model)
        return kept[name]

    return of


@pytest.fixture(scope="session")
def server(checkpoints, tmp_path_factory):
    """One server with every tiny checkpoint."""
    running = Server({name: made.path for name, made in checkpoints.items()}, tmp_path_factory.mktemp("server"))
    yield running
    running.stop()
