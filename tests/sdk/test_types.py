"""The package under a type checker: its own files, and what a user's checker sees."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import fluoroscope as fs
import pytest
from fluoroscope import generating, sweep
from fluoroscope.generating import ChatOptions, GenerateOptions
from fluoroscope.sweep import SweepOptions

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
cost: int = model.estimate_sweep("clean", "corrupt", metric=difference, layers=3, kind="zero").cells
for token in model.generate("Once", max_new_tokens=3, temperature=0.5, bos="never"):
    text: str = token.text
"""
WRONG = {
    "model.sweep(1, 'corrupt')": "call-overload",
    "model.sweep('clean', 'corrupt', windows=2)": "call-overload",
    "model.sweep('clean', 'corrupt', as_job=True).values": "attr-defined",
    "model.sweep('clean', 'corrupt').valuse": "attr-defined",
    "model.attribute('clean', 'corrupt', windows=2)": "call-arg",
    "model.estimate_sweep('clean', 'corrupt', layers='all')": "arg-type",
    "model.generate('Once', temprature=1)": "call-arg",
    "model.chat([], bos='never')": "call-arg",
    "fs.metrics.logit_diff()": "call-arg",
}


OPTIONS = {"generate": GenerateOptions, "estimate_generate": GenerateOptions, "chat": ChatOptions, "sweep": SweepOptions, "estimate_sweep": SweepOptions,
           "attribute": SweepOptions}  # fmt: skip


@pytest.mark.parametrize("method", OPTIONS)
def test_help_names_every_option_with_its_default(method):
    """They are written down once, in a TypedDict, and are not lost to help() and completion; the asynchronous methods have the same."""
    defaults = dict(sweep.DEFAULTS if OPTIONS[method] is SweepOptions else generating.DEFAULTS)
    assert generating.DEFAULTS.keys() == GenerateOptions.__annotations__.keys() and sweep.DEFAULTS.keys() == SweepOptions.__annotations__.keys()
    for owner in (fs.Model, fs.AsyncModel):
        shown = inspect.signature(getattr(owner, method)).parameters
        assert {name: shown[name].default for name in OPTIONS[method].__annotations__} == {name: defaults[name] for name in OPTIONS[method].__annotations__}
        assert not any(one.kind is one.VAR_KEYWORD for one in shown.values())


@pytest.mark.parametrize(("method", "options"), [(fs.Model.generate, GenerateOptions), (fs.Model.sweep, SweepOptions)])
def test_every_option_is_explained(method, options):
    explained = inspect.getdoc(method).partition("Args:")[2]
    assert [name for name in options.__annotations__ if name not in explained] == []


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
