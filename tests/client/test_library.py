"""The C++ library against the real server, through its example: one patched row per layer, and captures compared with the Python SDK's."""

from __future__ import annotations

import os
import subprocess

import fluoroscope
import numpy as np
import pytest

from .conftest import CLI

EXAMPLE = CLI.parent / "example_patch"
CLEAN = "When John and Mary went to the shops, John gave the bag to"


@pytest.fixture(scope="module")
def lines(target) -> list[str]:
    done = subprocess.run([EXAMPLE, target, "smollm2-135m"], capture_output=True, text=True, timeout=120, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_patching_brings_the_answer_back_layer_by_layer(lines):
    values = {line[:10].strip(): float(line.split()[-1]) for line in lines[:-1]}
    assert len(values) == 32
    assert values["clean"] == pytest.approx(3.12, abs=5e-3)
    assert values["layer 0"] == pytest.approx(values["clean"], abs=2e-3)  # the whole difference of the prompts, put right
    assert values["layer 29"] == pytest.approx(values["corrupted"], abs=0.2)  # too late: what matters has moved on
    assert values["corrupted"] < 0 < values["layer 5"]


def test_captures_are_the_python_clients(lines, target):
    name, norm = lines[-1].split()[0], float(lines[-1].split()[-1])
    with fluoroscope.connect(target) as client:
        _, cache = client.model("smollm2-135m").run_with_cache(CLEAN, names_filter=[name])
    assert lines[-1].startswith(f"{name} [{cache[name].shape[1]}, 576]")
    assert norm == pytest.approx(np.linalg.norm(cache[name][0, -1]), rel=1e-4)
