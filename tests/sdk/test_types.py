"""The package under a type checker: its own files, and what a user's checker sees."""

from __future__ import annotations

import inspect
import subprocess
import sys
from functools import cached_property
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


def documented() -> dict[str, object]:
    """Everything public by name: what `fs.__all__` lists and, in the modules among it, their own functions and classes; of classes, the methods and
    properties, inherited ones too."""
    found = {}
    for name in fs.__all__:
        value = getattr(fs, name)
        inside = {f"{name}.{key}": item for key, item in vars(value).items() if getattr(item, "__module__", "") == value.__name__} if inspect.ismodule(value) else {}
        found |= {key: item for key, item in ({name: value} | inside).items() if not key.rpartition(".")[2].startswith("_")}
    for name, value in list(found.items()):
        for owner in value.__mro__ if inspect.isclass(value) else ():
            members = vars(owner) if owner.__module__.partition(".")[0] == "fluoroscope" else {}
            plain = {key: getattr(item, "__func__", item) for key, item in members.items() if not key.startswith("_")}  # of class and static methods
            found |= {f"{name}.{key}": item for key, item in plain.items() if inspect.isfunction(item) or isinstance(item, property | cached_property)}
    return found


def test_everything_public_is_documented():
    found = documented()
    assert {"connect", "Model", "Model.run_with_hooks", "Model.tokenize", "TopToken.probability", "metrics.logit_diff", "errors.FluoroscopeError"} <= found.keys()
    made_up = {name for name, value in found.items() if (value.__doc__ or "").startswith(name.rpartition(".")[2] + "(")}  # by dataclass
    assert [name for name, value in found.items() if not value.__doc__ or name in made_up] == []


@pytest.mark.parametrize("section", ["Args", "Returns", "Raises", "Warns"])
def test_a_run_says_what_it_takes_gives_and_refuses(section):
    assert f"\n{section}:\n" in inspect.getdoc(fs.Model.run_with_hooks)


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
