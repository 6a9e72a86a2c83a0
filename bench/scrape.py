"""What a server under measurement says about itself, read from its /metrics."""

from __future__ import annotations

import time
import urllib.request


def lines(client: object) -> list[str]:
    address = client.server.http_address  # type: ignore[attr-defined]
    return urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode().splitlines()


def metric(client: object, name: str) -> float:
    return float(next(line.rsplit(" ", 1)[1] for line in lines(client) if line.split("{")[0].split(" ")[0] == name))


def batches_above(client: object, rows: int) -> int:
    """How many batches had more rows than this power of two."""
    counts = {line.split('le="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines(client) if line.startswith("fluoroscope_batch_rows_bucket{")}
    return round(counts["+Inf"] - counts[str(rows)])


class ProcessorTime:
    """Processor seconds of this process and of the server, in user and system mode, of all threads; added up over many uses of `with`.

    The kernel tells the server's in steps of 10 ms, so only the sum of several is worth reading.
    """

    def __init__(self, client: object) -> None:
        self._client = client
        self._client_seconds = self._server_seconds = 0.0
        self._count = 0

    def __enter__(self) -> None:
        self._server_start = metric(self._client, "process_cpu_seconds_total")
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self._client_seconds += time.process_time() - self._start
        self._server_seconds += metric(self._client, "process_cpu_seconds_total") - self._server_start
        self._count += 1

    @property
    def client(self) -> float:
        """Seconds of each use, on average."""
        return self._client_seconds / self._count

    @property
    def server(self) -> float:
        return self._server_seconds / self._count
