"""The package under a type checker: its own files, and what a user's checker sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fluoroscope as fs
import pytest

PACKAGE = Path(fs.__file__).parent
MYPY = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--no-error-summary", "--cache-dir"]

RIGHT = """
import fluoroscope as fs
import numpy as np

client = fs.connect("localhost:7070")
model = client.model("m")
logits, cache = model.run_with_cache("text", names_filter=["blocks.*.hook_resid_pre"])
difference = fs.metrics.logit_diff(" Mary", " John")
out = model.run_with_hooks("text", [fs.zero(fs.at("blocks.5.attn.hook_z", heads=[3], positions=[-1]))], metrics=[difference])
sweep: fs.SweepResult = model.sweep("clean", "corrupt", site="resid_pre", over=("layer", "position"), metric=difference)
values: np.ndarray = sweep.values
kept: fs.SweepResult = model.sweep(None, "corrupt", metric=difference, source=model.keep("clean", "blocks.*.hook_resid_pre"))
job: fs.Job[fs.SweepResult] = model.sweep("clean", "corrupt", metric=difference, as_job=True)
for token in model.generate("Once", max_new_tokens=3):
    text: str = token.text
"""
WRONG = {
    "model.sweep(1, 'corrupt')": "call-overload",
    "model.sweep('clean', 'corrupt', windows=2)": "call-overload",
    "model.sweep('clean', 'corrupt', as_job=True).values": "attr-defined",
    "model.sweep('clean', 'corrupt').valuse": "attr-defined",
    "fs.metrics.logit_diff()": "call-arg",
}


def mypy(cache: Path, *files: object) -> str:
    done = subprocess.run([*MYPY, str(cache), *map(str, files)], capture_output=True, text=True, cwd=PACKAGE.parent)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_the_package_itself(cache):
    complaints = [line for line in mypy(cache, PACKAGE).splitlines() if ": error:" in line and "/_proto/" not in line]
    assert complaints == []


def test_a_users_script(cache, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RIGHT + "\n".join(WRONG) + "\n")
    first = RIGHT.count("\n") + 1
    found = [line for line in mypy(cache, script).splitlines() if ": error:" in line and "script.py" in line]
    lines = {int(line.split(":")[1]): line.rpartition("[")[2].rstrip("]") for line in found}
    assert lines == {first + i: code for i, code in enumerate(WRONG.values())}
