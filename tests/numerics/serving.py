"""A real server process, and requests put together from the wire's own messages, so that every field can be tried."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from fluoroscope import wire
from fluoroscope._proto.v1 import inference_pb2, models_pb2, plan_pb2, tensor_pb2

ROOT = Path(__file__).resolve().parents[2]
Row = str | Sequence[int] | plan_pb2.Activations


def binary() -> Path:
    return Path(os.environ.get("FLUOROSCOPE_SERVER", ROOT / "build/release/bin/fluoroscope-server"))


def positions(items: int | str | slice | Iterable[int]) -> plan_pb2.Positions:
    """3, -1, "last", "all", slice(2, 5) or a list of numbers."""
    if isinstance(items, (int, str, slice)):
        items = [items]
    out = plan_pb2.Positions()
    for item in items:
        if item == "last":
            out.items.add(last=True)
        elif item == "all":
            out.items.add(all=True)
        elif isinstance(item, slice):
            out.items.add(range=plan_pb2.Positions.Range(start=item.start, end=item.stop))
        else:
            out.items.add(index=item)
    return out


def selection(sites: str | Sequence[str], *, layers=(), at=None, heads=(), rows=()) -> plan_pb2.Selection:
    chosen = plan_pb2.Selection(sites=[sites] if isinstance(sites, str) else sites, layers=layers, heads=heads, rows=rows)
    if at is not None:
        chosen.positions.CopyFrom(positions(at))
    return chosen


def capture(sites: str | Sequence[str], *, last=False, top_k=0, dot: np.ndarray | None = None, **select) -> plan_pb2.Capture:
    out = plan_pb2.Capture(select=selection(sites, **select))
    if last:
        out.reduction.last = True
    if top_k:
        out.reduction.top_k.k = top_k
    if dot is not None:
        out.reduction.dot.directions.CopyFrom(tensor(dot))
    return out


def tensor(values: np.ndarray) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_F32, shape=values.shape, data=np.ascontiguousarray(values, "<f4").tobytes())


def edit(site: str | Sequence[str], *, units=(), at=None, layers=(), heads=(), rows=(), **kind) -> plan_pb2.Intervention:
    """Any intervention: edit("blocks.1.hook_mlp_out", rows=[0], zero=plan_pb2.Zero())."""
    out = plan_pb2.Intervention(select=selection(site, at=at, layers=layers, heads=heads, rows=rows), **kind)
    out.select.units.extend(units)
    return out


def copy(site: str, *, row: int, to: int, at=None, source_at=None, **select) -> plan_pb2.Intervention:
    """The value of `row` at `site` replaces row `to`'s."""
    out = plan_pb2.Intervention(select=selection(site, at=at, rows=[to], **select), copy=plan_pb2.CopyFromRow(row=row))
    if source_at is not None:
        out.copy.positions.CopyFrom(positions(source_at))
    return out


def token(ref: int | str) -> plan_pb2.TokenRef:
    return plan_pb2.TokenRef(text=ref) if isinstance(ref, str) else plan_pb2.TokenRef(id=ref)


def logit_difference(right: Sequence[int | str], wrong: Sequence[int | str], *, name="diff", at=None, rows=()) -> plan_pb2.Metric:
    out = plan_pb2.Metric(name=name, rows=rows)
    out.logit_difference.right.extend(map(token, right))
    out.logit_difference.wrong.extend(map(token, wrong))
    if at is not None:
        out.positions.CopyFrom(positions(at))
    return out


def logits(*, at=None, tokens=(), top_k=0, rows=()) -> plan_pb2.LogitsRequest:
    out = plan_pb2.LogitsRequest(tokens=map(token, tokens), top_k=top_k, rows=rows)
    if at is not None:
        out.positions.CopyFrom(positions(at))
    return out


SMOLLM2 = "smollm2-135m"
ALL_LOGITS = logits(at="all")


@dataclass
class Result:
    """A reply, by name and row."""

    reply: wire.Reply

    def header(self, name: str, row: int = 0, *, capture: int = 0, part: str = "") -> tensor_pb2.TensorHeader:
        return self._find(name, row, capture, part)[0]

    def get(self, name: str, row: int = 0, *, capture: int = 0, part: str = "") -> np.ndarray:
        return self._find(name, row, capture, part)[1]

    def sites(self, row: int = 0) -> dict[str, np.ndarray]:
        special = ("logits", "top.tokens", "top.logits", "top.logprobs")
        return {h.name: value for h, value in self.reply.tensors if h.row == row and h.name not in special}

    def metric(self, name: str = "diff") -> dict[tuple[int, int], float]:
        return {(m.row, m.position): m.value for m in self.reply.summary.metrics if m.name == name}

    def _find(self, name, row, capture, part):
        found = [pair for pair in self.reply.tensors if (pair[0].name, pair[0].row, pair[0].capture, pair[0].part) == (name, row, capture, part)]
        assert len(found) == 1, f"{len(found)} tensors {name!r} row {row} capture {capture} part {part!r}; there are: {sorted({h.name for h, _ in self.reply.tensors})}"
        return found[0]


class Server:
    """Owns one server process on free ports of the loopback."""

    def __init__(self, models: dict[str, Path | tuple[Path, str]], folder: Path, options: str = ""):
        """`models`: the directory, or the directory and the dtype to cast to. `options`: more lines of the configuration."""
        config = f'grpc_address: "127.0.0.1:0"\nhttp_address: "127.0.0.1:0"\n{options}\n'
        for name, model in models.items():
            path, dtype = (model, "") if isinstance(model, Path) else model
            config += f'models {{ name: "{name}" path: "{path}" dtype: "{dtype}" }}\n'
        (folder / "server.textproto").write_text(config)
        port_file = folder / "ports"
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [binary(), "--config", folder / "server.textproto", "--port_file", port_file],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_WAIT_POLICY": "passive"},
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        self.address = grpc_address(port_file)
        self.http_address = http_address(port_file)
        self.channel = grpc.insecure_channel(self.address)
        grpc.channel_ready_future(self.channel).result(timeout=60)
        self._forward = self.channel.unary_stream(
            "/fluoroscope.v1.Inference/Forward",
            request_serializer=inference_pb2.ForwardRequest.SerializeToString,
            response_deserializer=None,
        )
        self._get_model = self.channel.unary_unary(
            "/fluoroscope.v1.Models/GetModel",
            request_serializer=models_pb2.GetModelRequest.SerializeToString,
            response_deserializer=models_pb2.GetModelReply.FromString,
        )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def estimate(self, request: inference_pb2.ForwardRequest) -> inference_pb2.EstimateReply:
        call = self.channel.unary_unary(
            "/fluoroscope.v1.Inference/Estimate", inference_pb2.ForwardRequest.SerializeToString, inference_pb2.EstimateReply.FromString
        )
        return call(request, timeout=60)

    def metric(self, name: str) -> float:
        """Of the server's /metrics, one without labels or with the labels written out."""
        with urllib.request.urlopen(f"http://{self.http_address}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == name))

    def sites(self, model: str) -> dict[str, models_pb2.Site]:
        return {site.name: site for site in self._get_model(models_pb2.GetModelRequest(model=model), timeout=60).sites}

    def forward(self, model: str, rows: Sequence[Row], *, captures=(), interventions=(), metrics=(), logits=None, isolated=False) -> Result:
        request = inference_pb2.ForwardRequest(
            model=model, captures=captures, interventions=interventions, metrics=metrics, logits=logits, isolated=isolated
        )
        for row in rows:
            if isinstance(row, str):
                request.prompts.add(text=row)
            elif isinstance(row, plan_pb2.Activations):
                request.prompts.add(activations=row)
            else:
                request.prompts.add(tokens=plan_pb2.TokenIds(ids=row))
        reply = wire.read_reply(self._forward(request, timeout=120), lambda header, dtype, shape: np.empty(shape, dtype))
        return Result(reply)


def grpc_address(port_file: Path) -> str:
    """The port file has lines grpc=PORT and http=PORT."""
    ports = dict(line.split("=") for line in port_file.read_text().split())
    return f"127.0.0.1:{ports['grpc']}"


def http_address(port_file: Path) -> str:
    ports = dict(line.split("=") for line in port_file.read_text().split())
    return f"127.0.0.1:{ports['http']}"
