"""Models from the Hugging Face hub, through the real huggingface_hub client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fluoroscope as fs
import pytest
import torch
import transformers

from .hub import COMMIT, Hub


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny Llama with a tokenizer, and beside it what must not be downloaded."""
    folder = tmp_path_factory.mktemp("repository")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64, max_position_embeddings=64
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling_custom.py").write_text("raise SystemExit('code from the hub was run')")
    return folder


@pytest.fixture
def hub(checkpoint):
    running = Hub("somebody/Tiny-Llama", checkpoint)
    yield running
    running.stop()


def run(home: Path, hub: Hub, *arguments: str) -> subprocess.CompletedProcess:
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    env = {name: value for name, value in os.environ.items() if name not in offline}
    env |= {"FLUOROSCOPE_HOME": str(home), "HF_ENDPOINT": hub.address, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run([sys.executable, "-m", "fluoroscope.fetch", *arguments], env=env, capture_output=True, text=True, timeout=120)


def test_a_model_is_downloaded_and_served(tmp_path, hub, checkpoint):
    done = run(tmp_path, hub, "somebody/Tiny-Llama")
    path = tmp_path / "models" / "tiny-llama"
    assert (done.returncode, done.stdout.strip()) == (0, str(path)), done.stderr
    assert {"config.json", "model.safetensors"} <= set(hub.asked)
    assert not {"pytorch_model.bin", "modeling_custom.py"} & set(hub.asked)
    assert (path / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert not (path / ".cache").exists()
    # The second time nothing is asked.
    before = len(hub.asked)
    assert run(tmp_path, hub, "somebody/Tiny-Llama").returncode == 0
    assert len(hub.asked) == before
    with fs.serve({"tiny-llama": path}) as client:
        model = client.model("tiny-llama")
        assert model.info.revision == COMMIT
        ours, _ = model.run_with_cache([1, 2, 3], (), logits="last")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)(torch.tensor([[1, 2, 3]])).logits[0, -1]
        assert torch.allclose(torch.tensor(ours).flatten(), theirs.detach(), atol=5e-5)


def test_what_is_not_there_is_said(tmp_path, hub):
    done = run(tmp_path, hub, "nobody/nothing")
    assert done.returncode == 1
    assert "cannot download 'nobody/nothing' from the Hugging Face hub" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "models" / "nothing").exists()


def test_pickled_weights_alone_are_refused(tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickled")
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    hub = Hub("somebody/pickled", folder)
    try:
        done = run(tmp_path, hub, "somebody/pickled")
    finally:
        hub.stop()
    assert done.returncode == 1
    assert "no safetensors files; pickled weights are not loaded" in done.stderr
    assert hub.asked == ["config.json"]
