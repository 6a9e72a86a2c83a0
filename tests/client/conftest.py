"""The real server with SmolLM2, and the real `fluoroscope` beside it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fluoroscope import fetch

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(os.environ.get("FLUOROSCOPE_SERVER", ROOT / "build/release/bin/fluoroscope-server"))
CLI = Path(os.environ.get("FLUOROSCOPE_CLI", SERVER.parent / "fluoroscope"))


def run_cli(*arguments: str, target: str | None = None, stdin: str | bytes = b"") -> subprocess.CompletedProcess:
    """Runs the command line to its end, its output in pipes."""
    environment = {key: value for key, value in os.environ.items() if key not in ("FLUOROSCOPE_TARGET", "FLUOROSCOPE_PRINCIPAL")}
    if target is not None:
        environment["FLUOROSCOPE_TARGET"] = target
    data = stdin if isinstance(stdin, bytes) else stdin.encode()
    done = subprocess.run([CLI, *arguments], input=data, capture_output=True, env=environment, timeout=120)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


@contextlib.contextmanager
def serving(folder: Path, options: str) -> Iterator[str]:
    """The address of a server that holds SmolLM2."""
    for binary in (SERVER, CLI):
        assert binary.exists(), f"{binary} is missing: build the release preset, or set FLUOROSCOPE_SERVER and FLUOROSCOPE_CLI"
    config, ports, log = folder / "server.textproto", folder / "ports", folder / "server.log"
    path = fetch.fetch("smollm2-135m")
    config.write_text(f'models {{ name: "smollm2-135m" path: "{path}" }}\ngrpc_address: "127.0.0.1:0"\nhttp_address: "127.0.0.1:0"\n'
                      f'{options}\n')  # fmt: skip
    with log.open("w") as output:
        command = [SERVER, "--config", config, "--port_file", ports]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | {"OMP_WAIT_POLICY": "passive"})
    try:
        for _ in range(2400):
            if ports.exists():
                break
            assert server.poll() is None, f"the server ended with {server.returncode}:\n{log.read_text()}"
            try:
                server.wait(0.05)
            except subprocess.TimeoutExpired:
                pass
        lines = dict(line.split("=") for line in ports.read_text().split())
        yield f"127.0.0.1:{lines['grpc']}"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="session")
def target(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, f'jobs {{ directory: "{folder / "jobs"}" }}') as address:
        yield address


@pytest.fixture
def cli(target):
    """cli("models", ...) with the server's address in the environment."""

    def run(*arguments: str, **options) -> subprocess.CompletedProcess:
        return run_cli(*arguments, target=target, **options)

    return run
