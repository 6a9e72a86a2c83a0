"""Generation: tokens per second over loopback, of one stream and of eight at a time, against transformers' generate in process."""

from __future__ import annotations

import statistics
import subprocess
import threading
from pathlib import Path

import torch

import fluoroscope as fs
from contenders import Transformers
from forward import serve
from report import Row
from timing import alternate, medians
from users import one_token

PROMPT = "Once upon a time"
TOKENS = 64
STREAMS = 8


def measure(directory: Path, build: Path, rounds: int) -> list[Row]:
    hf = Transformers(directory)
    with serve(directory) as client:
        model = client.model("smollm2-135m")
        ids = torch.tensor([model.tokenize(PROMPT)])
        _agree(hf, model, ids)
        size = model.info.weight_bytes
        # As many bytes as the weights have, which must be read once for each token.
        reader = subprocess.Popen([build / "bin/bench_read_memory", str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        times = medians(alternate({
            "read": lambda: _read(reader),
            "transformers": lambda: _transformers(hf, ids),
            "one": lambda: _one(model),
            "eight": lambda: _streams(model, STREAMS),
        }, rounds))  # fmt: skip
        reader.communicate()
        parts = one_token(client, directory, build, 1)
    theirs, ours, eight = TOKENS / times["transformers"], TOKENS / times["one"], STREAMS * TOKENS / times["eight"]
    limit, speed = 1 / times["read"], size / times["read"] / 1e9
    beside = f"transformers {theirs:.1f} tokens/s"
    work = f"greedy generation of {TOKENS} tokens"
    step, products, bare = 1e3 / ours, statistics.median(parts["products"]), statistics.median(parts["bare"])
    why = (f"a token takes {step:.1f} ms, and reading the weights {1e3 / limit:.1f} ms. The step's matrix products alone, called one after the other without a server, take "
           f"{products:.1f} ms: {size / products / 1e6:.1f} GB/s. A whole forward pass of one token without a server takes {bare:.1f} ms: {bare - products:.1f} ms more for "
           f"norms, rotations, attention and activations between the products. The remaining {step - bare:.1f} ms are keys and values of earlier tokens, log-probabilities and "
           f"choice, the prompt's share and the stream to the client.")
    return [
        Row(f"{work}, one stream", beside, f"{ours:.1f} tokens/s", ours / theirs, "× transformers", "≥ 1.5", ours >= 1.5 * theirs),
        Row("the same against the memory's speed", f"two threads that only read as many bytes as the weights have: {limit:.1f} times a second, {speed:.1f} GB/s",
            f"{ours:.1f} tokens/s, {size * ours / 1e9:.1f} GB/s", ours / limit, "of the limit", "≥ 0.85", ours >= 0.85 * limit, why),
        Row(f"{work}, {STREAMS} streams", f"{beside} in one stream", f"{eight:.1f} tokens/s", eight / theirs, "× transformers", "≥ 6", eight >= 6 * theirs),
    ]  # fmt: skip


def _read(reader: subprocess.Popen[str]) -> float:
    """Seconds of the best pass over the memory: see read_memory.cc."""
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write("\n")
    return float(reader.stdout.readline())


@torch.no_grad()
def _transformers(hf: Transformers, ids: torch.Tensor) -> None:
    out = hf.model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=TOKENS, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
    if out.shape[1] != ids.shape[1] + TOKENS:
        raise SystemExit(f"transformers made {out.shape[1] - ids.shape[1]} tokens, not {TOKENS}")


def _one(model: fs.Model) -> None:
    generation = model.generate(PROMPT, TOKENS, ignore_eos=True)
    if sum(1 for _ in generation) != TOKENS:
        raise SystemExit("the server made another number of tokens")


def _streams(model: fs.Model, count: int) -> None:
    """So many calls at a time, as of different users."""
    threads = [threading.Thread(target=_one, args=(model,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@torch.no_grad()
def _agree(hf: Transformers, model: fs.Model, ids: torch.Tensor) -> None:
    """A fast wrong answer does not count."""
    theirs = hf.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
    ours = model.generate(PROMPT, 32).ids[0][0]
    if ours != theirs:
        raise SystemExit(f"the tokens differ: {ours} here, {theirs} in transformers")
