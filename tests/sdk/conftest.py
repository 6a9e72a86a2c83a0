"""One real server with SmolLM2 for the whole session."""

from __future__ import annotations

from pathlib import Path

import fluoroscope as fs
import pytest
from fluoroscope import fetch


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The demo's model in the model store; made there if it is missing."""
    return fetch.fetch("smollm2-135m")


@pytest.fixture(scope="session")
def client(smollm2_path, tmp_path_factory):
    with fs.serve({"smollm2-135m": smollm2_path}, jobs=tmp_path_factory.mktemp("jobs"), principal="tests") as client:
        yield client


@pytest.fixture(scope="session")
def model(client):
    return client.model("smollm2-135m")
