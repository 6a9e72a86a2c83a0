"""A real Prometheus with the configuration of deploy/ scrapes the real server; only the address differs."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from .server_process import eventually
from .wire import ROOT, v1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """Owns the process. `target` is scraped every second instead of the server of compose.yaml."""

    def __init__(self, target: str, folder: Path):
        binary = shutil.which("prometheus")
        assert binary, "prometheus is missing (Debian package prometheus); scripts/setup --dev unpacks it"
        deployed = (ROOT / "deploy/prometheus.yml").read_text()
        assert "fluoroscope:9464" in deployed and "scrape_interval: 5s" in deployed
        config = folder / "prometheus.yml"
        config.write_text(deployed.replace("fluoroscope:9464", target).replace("scrape_interval: 5s", "scrape_interval: 1s"))
        self.address = f"127.0.0.1:{free_port()}"
        with (folder / "prometheus.log").open("w") as log:
            self.process = subprocess.Popen(
                [binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.address}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def query(self, expression: str) -> dict[tuple, float]:
        """Values by their labels; nothing while it is not ready yet."""
        url = f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                found = json.load(reply)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            return {}
        return {tuple(sorted((k, v) for k, v in entry["metric"].items() if k not in ("instance", "job", "__name__"))): float(entry["value"][1]) for entry in found}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def prometheus(start, tiny, tmp_path):
    server = start({"tiny": tiny})
    running = Prometheus(server.http_address, tmp_path)
    yield server, running
    running.stop()


def test_it_scrapes_the_server(prometheus):
    server, scraper = prometheus
    assert eventually(lambda: scraper.query('up{job="fluoroscope"}') == {(): 1.0}, 60)
    row = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": [1, 2, 3, 4, 5]}}], logits={"tokens": [{"id": 1}]})
    before = server.metric('fluoroscope_forward_tokens_total{model="tiny"}')
    server.client().forward(row)
    label = (("model", "tiny"),)
    assert eventually(lambda: scraper.query("fluoroscope_forward_tokens_total").get(label) == before + 5, 30)
    assert scraper.query('fluoroscope_rpcs_total{method="Inference.Forward"}') == {(("code", "OK"), ("method", "Inference.Forward")): 1.0}
