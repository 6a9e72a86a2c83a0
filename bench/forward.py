"""Forward passes: the server over loopback against transformers and TransformerLens in process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

import fluoroscope as fs
from contenders import TransformerLens, Transformers
from report import Row
from scrape import ProcessorTime
from timing import alternate, medians

IOI = "When John and Mary went to the shops, John gave the bag to"
SITES = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")


def measure(directory: Path, rounds: int) -> list[Row]:
    hf = Transformers(directory)
    lens = TransformerLens(directory, hf.model)
    with serve(directory) as client:
        model = client.model("smollm2-135m")
        short = model.tokenize(IOI)
        many = torch.randint(0, model.info.vocabulary, (8, 128), generator=torch.Generator().manual_seed(0))
        _agree(hf, lens, model, short)
        return [_last_logits(hf, model, many, rounds), _captures(lens, client, many, rounds), _short(hf, lens, model, short, 4 * rounds)]


def serve(directory: Path, sink_mib: int = 64) -> fs.Client:
    """The server as a user would start it, with this much room for unread results."""
    import tempfile

    config = tempfile.NamedTemporaryFile("w", suffix=".textproto", delete=False)
    config.write(f'limits {{ sink_buffer_mib: {sink_mib} }}\nmodels {{ name: "smollm2-135m" path: "{directory}" }}\n')
    config.close()
    # The model is in the configuration file; serve() wants models of its own, so the server is started by hand.
    from fluoroscope.local_server import LocalServer, find_binary

    server = LocalServer([str(find_binary()), f"--config={config.name}"], log=None, timeout=120)
    return fs.Client(server.grpc_address, server=server)


def _agree(hf: Transformers, lens: TransformerLens, model: fs.Model, ids: list[int]) -> None:
    """A fast wrong answer does not count."""
    batch = torch.tensor([ids])
    ours, _ = model.run_with_cache(ids, names_filter=[], logits="last")
    for other in (hf.forward(batch, True)[0, -1], lens.forward(batch)[0, -1]):
        difference = np.abs(np.asarray(ours).reshape(-1) - other.numpy()).max()
        if difference > 5e-3:
            raise SystemExit(f"logits differ by {difference}: nothing to compare")


def _last_logits(hf: Transformers, model: fs.Model, ids: torch.Tensor, rounds: int) -> Row:
    rows = ids.tolist()
    times = medians(alternate({
        "ours": lambda: void(model.run_with_cache(rows, names_filter=[], logits="last")),
        "transformers": lambda: void(hf.forward(ids, True)),
    }, rounds))
    return Row("forward 8×128, last logits only", f"transformers {times['transformers']:.3f} s", f"{times['ours']:.3f} s",
               times["ours"] / times["transformers"], "× transformers' time", "≤ 0.95", times["ours"] <= 0.95 * times["transformers"])


def _captures(lens: TransformerLens, client: fs.Client, ids: torch.Tensor, rounds: int) -> Row:
    model = client.model("smollm2-135m")
    rows, layers = ids.tolist(), model.info.layers
    names = {f"blocks.{layer}.{site}" for layer in range(layers) for site in SITES}
    globs = [f"blocks.*.{site}" for site in SITES]
    product = torch.randn(2048, 2048)
    processor = {"ours": ProcessorTime(client), "forward": ProcessorTime(client)}

    def call(name: str, names_filter: list[str], logits: str | None) -> float:
        with processor[name]:
            start = time.perf_counter()
            void(model.run_with_cache(rows, names_filter=names_filter, logits=logits))
            return time.perf_counter() - start

    times = medians(alternate({
        "ours": lambda: call("ours", globs, None),
        "lens": lambda: void(lens.cache(ids, names)),
        "forward": lambda: call("forward", [], "last"),
        "peak": lambda: void(product @ product),
    }, rounds))
    estimate = model.estimate(rows, names_filter=globs, logits=None)
    floor, allowed, size = estimate.flops / (2 * 2048**3 / times["peak"]), times["lens"] / 1.7, estimate.reply_bytes / 2**20
    extra = times["ours"] - times["forward"]
    server, python = (getattr(processor["ours"], side) - getattr(processor["forward"], side) for side in ("server", "client"))
    why = (f"the goal leaves {allowed:.3f} s. The matrix products alone, {estimate.flops / 1e9:.0f} GFLOP, take {floor:.3f} s at the speed of LibTorch's 2048³ product; the server's forward "
           f"pass without captures takes {times['forward']:.3f} s. That leaves {allowed - times['forward']:.3f} s to copy, hash, send, receive and check {size:.0f} MiB, which takes "
           f"{extra:.3f} s here. Processor time with captures: {processor['ours'].server:.2f} s of the server and {processor['ours'].client:.2f} s of the client; without: "
           f"{processor['forward'].server:.2f} s and {processor['forward'].client:.2f} s. So the captures cost {server:.2f} s there and {python:.2f} s here, together "
           f"{server + python:.2f} s, of the {2 * extra:.2f} s that two cores have in the time that is added.")
    return Row("8×128 with all resid_pre, attn_out, mlp_out at the Python client (TransformerLens also computes all logits, as it always does)",
               f"TransformerLens {times['lens']:.3f} s", f"{times['ours']:.3f} s", times["lens"] / times["ours"], "× faster", "≥ 1.7",
               times["lens"] >= 1.7 * times["ours"], why)


def _short(hf: Transformers, lens: TransformerLens, model: fs.Model, ids: list[int], rounds: int) -> Row:
    batch = torch.tensor([ids])
    times = medians(alternate({
        "ours": lambda: void(model.run_with_cache(ids, names_filter=[], logits="last")),
        "transformers": lambda: void(hf.forward(batch, False)),
        "transformers, last logits": lambda: void(hf.forward(batch, True)),
        "TransformerLens": lambda: void(lens.forward(batch)),
    }, rounds, warm_up=3))
    others = "; ".join(f"{name} {times[name]:.4f} s" for name in ("transformers", "transformers, last logits", "TransformerLens"))
    return Row("14-token forward, last logits", others, f"{times['ours']:.4f} s", times["ours"] / times["transformers"], "× transformers' time", "≤ 0.7",
               times["ours"] <= 0.7 * times["transformers"])


def void(_: object) -> None:
    """Results are dropped, so that the call is timed by its caller."""
