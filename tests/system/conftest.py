from __future__ import annotations

from pathlib import Path

import pytest

from . import tiny_models
from .server_process import ServerProcess


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return tiny_models.tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def busy(tmp_path_factory) -> Path:
    return tiny_models.busy(tmp_path_factory.mktemp("models") / "busy")


@pytest.fixture(scope="session")
def shared_server(tiny, tmp_path_factory):
    """A server with "tiny" for tests that leave it as it was."""
    server = ServerProcess({"tiny": tiny}, tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def start(tmp_path):
    """start({"tiny": path}, options="...") starts a server of the test's own; all are ended with the test."""
    servers: list[ServerProcess] = []

    def start(models, **arguments) -> ServerProcess:
        servers.append(ServerProcess(models, tmp_path / f"server{len(servers)}", **arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
