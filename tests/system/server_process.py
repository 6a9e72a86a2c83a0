"""The real server binary as a child process on free ports of the loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from .wire import ROOT, Client

BINARY = Path(os.environ.get("FLUOROSCOPE_SERVER", ROOT / "build/release/bin/fluoroscope-server"))


class ServerProcess:
    """Owns one server process, its log and its folder. `options` is more of the configuration's textproto."""

    def __init__(self, models: dict[str, Path], folder: Path, *, options: str = "", wait: bool = True, environment: dict[str, str] | None = None):
        assert BINARY.exists(), f"{BINARY} is missing: build the release preset, or set FLUOROSCOPE_SERVER"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f'models {{ name: "{name}" path: "{path}" }}' for name, path in models.items()]
        lines += ['grpc_address: "127.0.0.1:0"', 'http_address: "127.0.0.1:0"', options]
        (folder / "server.textproto").write_text("\n".join(lines) + "\n")
        self.port_file = folder / "ports"
        self.log_file = folder / "server.log"
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [BINARY, "--config", folder / "server.textproto", "--port_file", self.port_file],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip
        self.clients: list[Client] = []
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 120):
        deadline = time.monotonic() + seconds
        while not self.port_file.exists():
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log()}"
            assert time.monotonic() < deadline, f"the server is not ready after {seconds} s:\n{self.log()}"
            time.sleep(0.02)
        ports = dict(line.split("=") for line in self.port_file.read_text().split())
        self.grpc_address, self.http_address = f"127.0.0.1:{ports['grpc']}", f"127.0.0.1:{ports['http']}"

    def client(self) -> Client:
        self.clients.append(Client(self.grpc_address))
        return self.clients[-1]

    def http(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.http_address}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, line_start: str) -> float:
        """The value of the metric whose line starts so; 0 when there is none yet."""
        for line in self.http("/metrics")[1].splitlines():
            if line.startswith(line_start + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def log(self) -> str:
        return self.log_file.read_text()

    def terminate(self, number: int = signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(timeout=seconds)

    def close(self):
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)


def eventually(condition, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())
