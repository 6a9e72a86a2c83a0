"""A model directory that is not what it says: the server ends, says which tensor or field is wrong and what it expected, and never serves a part of it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import grpc
import pytest

from .server_process import BINARY
from .wire import v1

Q = "model.layers.1.self_attn.q_proj.weight"


def edit_config(**fields):
    def edit(folder: Path):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return edit


def edit_header(change):
    """Rewrites the header of the weights file; the data stays where it is, relative to the header's end."""

    def edit(folder: Path):
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])

    return edit


def rename(header):
    header["model.layers.1.self_attn.q_projection.weight"] = header.pop(Q)


def reshape(header):
    header[Q]["shape"] = [24, 96]


def lie(header):
    begin, end = header[Q]["data_offsets"]
    header[Q]["data_offsets"] = [begin, end + (1 << 40)]


def truncate(folder: Path):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pickle(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def add(names: dict[str, str], without: tuple[str, ...] = ()):
    """Gives the weights file copies of some of its tensors under further names, and takes others away."""

    def edit(folder: Path):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors |= {name: tensors[original].clone() for name, original in names.items()}
        for name in without:
            del tensors[name]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return edit


NORM = "model.norm.weight"  # [48], as the biases of most matrices
BIASES = {f"model.layers.{layer}.{matrix}.bias": NORM for layer in range(3) for matrix in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")}


def break_tokenizer(folder: Path):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


TABLE = {
    "missing tensor": (edit_header(rename), [f'no tensor "{Q}"']),
    "wrong shape": (edit_header(reshape), [f'"{Q}"', "shape [24, 96]", "expected [48, 48]"]),
    "offsets that lie": (edit_header(lie), [f'"{Q}"', "outside the file"]),
    "truncated file": (truncate, ["model.safetensors", "outside the file", "was it cut off?"]),
    "pickled weights": (pickle, ["pytorch_model.bin", "pickled weights", "runs code"]),
    "unknown architecture": (edit_config(model_type="mamba"), ["unknown model_type 'mamba'", "gpt2", "llama"]),
    "a flag that changes the maths": (edit_config(pretraining_tp=2), ["config.json", "pretraining_tp"]),
    "scaling that is not supported": (
        edit_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}), ["rope_type 'yarn'", "default, linear, llama3"]),
    "a width that is not the weights'": (edit_config(intermediate_size=81), ["mlp.gate_proj.weight", "[80, 48]", "[81, 48]"]),
    "a vocabulary that is not the weights'": (edit_config(vocab_size=401), ["embed_tokens.weight", "401"]),
    "biases that the configuration denies": (
        add(BIASES), ["9 tensors that config.json does not ask for", '"model.layers.0.mlp.down_proj.bias"', " and 6 more", "flag for biases"]),
    "one bias": (add({"lm_head.bias": NORM}), ['a tensor that config.json does not ask for: "lm_head.bias"', "would give other numbers"]),
    "more layers than the configuration's": (
        edit_config(num_hidden_layers=2), ["9 tensors that config.json does not ask for", '"model.layers.2.input_layernorm.weight"', "number of layers"]),
    "a tied unembedding that is another matrix": (
        edit_config(tie_word_embeddings=True), ['"lm_head.weight" differs from "model.embed_tokens.weight"', "tie_word_embeddings"]),
    "a broken tokenizer": (break_tokenizer, ["tokenizer.json", "model"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_a_bad_checkpoint_is_named(tiny, tmp_path, case):
    damage, words = TABLE[case]
    folder = shutil.copytree(tiny, tmp_path / "model")
    damage(folder)
    # The good model beside it is loaded first: nothing is served when one of them is bad.
    run = subprocess.run(
        [BINARY, "--model", f"good={tiny},bad={folder}", "--grpc_address", "127.0.0.1:0", "--http_address", "127.0.0.1:0", "--port_file", tmp_path / "ports"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    message = next(line for line in run.stderr.splitlines() if "'bad'" in line)
    for word in words:
        assert word in message
    assert not (tmp_path / "ports").exists(), "it never served"


def test_what_old_versions_of_transformers_saved_beside_the_weights_changes_nothing(start, tiny, tmp_path):
    """Buffers that follow from the configuration, and both names of a tied matrix."""
    tie = edit_config(tie_word_embeddings=True)
    damages = {
        "frequencies": [add({f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": NORM for layer in range(3)})],
        "one": [add({}, without=("lm_head.weight",)), tie],
        "both": [add({"lm_head.weight": "model.embed_tokens.weight"}), tie],
    }
    models = {"plain": tiny}
    for name, edits in damages.items():
        models[name] = shutil.copytree(tiny, tmp_path / name)
        for edit in edits:
            edit(models[name])
    client = start(models).client()

    def logits(name: str) -> bytes:
        request = v1("ForwardRequest")(model=name, prompts=[{"tokens": {"ids": [1, 2, 3, 4, 5]}}], logits={}, isolated=True)
        ((_, values),) = client.forward(request)[1].values()
        return values

    assert logits("frequencies") == logits("plain")
    assert logits("both") == logits("one") != logits("plain")


def test_a_model_without_a_tokenizer_takes_ids_only(start, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    client = start({"ids": folder}).client()
    request = v1("ForwardRequest")(model="ids", prompts=[{"text": "a"}])
    with pytest.raises(grpc.RpcError) as error:
        client.forward(request)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "no tokenizer.json; give token ids instead" in error.value.details()
    assert client.forward(v1("ForwardRequest")(model="ids", prompts=[{"tokens": {"ids": [1, 2]}}]))[0].tokens == 2


def test_the_revision_is_the_manifests(start, tiny, tmp_path):
    """What fluoroscope.fetch wrote down; a manifest that says nothing of use is no reason to refuse a model."""
    manifests = {"hub": {"source": {"revision": "0123abcd"}}, "odd": {"source": ["revision"]}, "number": {"source": {"revision": 7}}}
    models = {name: shutil.copytree(tiny, tmp_path / name) for name in manifests}
    for name, manifest in manifests.items():
        (models[name] / "fluoroscope.json").write_text(json.dumps(manifest))
    server = start(models | {"none": tiny})
    reply = server.client().call("fluoroscope.v1.Models/ListModels")
    assert {model.name: model.revision for model in reply.models} == {"hub": "0123abcd", "odd": "", "number": "", "none": ""}
