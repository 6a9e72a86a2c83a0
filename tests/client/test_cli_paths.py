"""`fluoroscope path-patch` against the real server: its values are the SDK's."""

from __future__ import annotations

import csv
import io
import json
import re

import fluoroscope as fs
import numpy as np
import pytest

from .conftest import run_cli
from .test_cli import ok, on_a_terminal
from .test_cli_sweep import CLEAN, CORRUPT, DIFF, LIMIT, bare

ASK = ["path-patch", "smollm2-135m", "--clean", CLEAN, "--corrupt", CORRUPT, "--answer", " Mary", "--foil", " John"]
FEW = ["--senders", "23.3,29.1,mlp.3,embed", "--receivers", "logits,q.24.0"]


@pytest.fixture(scope="module")
def model(target):
    with fs.connect(target) as client:
        yield client.model("smollm2-135m")


@pytest.fixture(scope="module")
def few(model):
    return model.path_patch(CLEAN, CORRUPT, [(23, 3), (29, 1), ("mlp", 3), "embed"], ["logits", ("q", 24, 0)], DIFF)


def as_text(label: str) -> str:
    """A head as JSON and CSV name it."""
    return re.sub(r"^(\d+)\.(\d+)$", r"L\1H\2", label)


def test_json_is_the_sdks_result(cli, few):
    reply = json.loads(ok(cli(*ASK, *FEW, "--json")))
    np.testing.assert_allclose(np.array(reply["values"], float), few.values, atol=LIMIT)  # null: no path
    assert (reply["base"], reply["source"]) == (pytest.approx(few.base[0], abs=LIMIT), pytest.approx(few.source[0], abs=LIMIT))
    assert [(axis["name"], tuple(axis["labels"])) for axis in reply["axes"]] == [("receiver", ("logits", "q 24.0")), ("sender", ("L23H3", "L29H1", "mlp 3", "embed"))]
    assert (reply["metric"], reply["cells"]) == ("logit_diff", 8)
    assert reply["sweep"] == "paths: senders say in the clean run what they say in the corrupt one"


def test_csv_has_a_line_per_cell(cli, few):
    lines = list(csv.DictReader(io.StringIO(ok(cli(*ASK, *FEW, "--csv")))))
    assert [(line["receiver"], line["sender"]) for line in lines] == [(r, as_text(s)) for r in few.axes[0].labels for s in few.axes[1].labels]
    np.testing.assert_allclose([float(line["logit_diff"]) for line in lines], few.values.ravel(), atol=LIMIT)


def test_pandas_reads_heads_as_text_and_no_path_as_nan(cli, model):
    """9.1 and 9.10 would be one number."""
    pandas = pytest.importorskip("pandas")
    ask = ["--senders", "5.1,5.2", "--receivers", "q.5.0,q.6.0"]
    frame = pandas.read_csv(io.StringIO(ok(cli(*ASK, *ask, "--csv"))))
    assert frame["sender"].tolist() == ["L5H1", "L5H2"] * 2
    wanted = model.path_patch(CLEAN, CORRUPT, [(5, 1), (5, 2)], [("q", 5, 0), ("q", 6, 0)], DIFF).values.ravel()
    np.testing.assert_allclose(frame["logit_diff"], wanted, atol=LIMIT)
    assert np.isnan(wanted).tolist() == [True, True, False, False] == frame["normalized"].isna().tolist()
    assert json.loads(ok(cli(*ASK, *ask, "--json")))["values"][0] == [None, None]
    assert ok(cli(*ASK, *ask)).count(" nan") == 2


def test_one_cell_is_no_cells(cli):
    lines = ok(cli(*ASK, "--senders", "5.1")).splitlines()
    assert lines[-1].startswith("1 cell in ") and "cells" not in lines[-1]
    assert ok(cli(*ASK, "--senders", "5.1", "--estimate")).splitlines()[0] == "1 cell, of which 0 need no run"


def test_answers_without_their_space_are_warned_of(cli):
    ask = ["path-patch", "smollm2-135m", "--clean", CLEAN, "--corrupt", CORRUPT, "--senders", "5.1"]
    done = cli(*ask, "--answer", "Mary", "--foil", "John")
    said = done.stderr.splitlines()
    assert done.returncode == 0 and len(said) == 2, said
    for line, option, word in zip(said, ("--answer", "--foil"), ("Mary", "John"), strict=True):
        assert line.startswith(f'warning: {option} "{word}" is token ') and f'; " {word}" is one token too' in line
    # With the space, no word, or behind a space there is nothing to say.
    ok(cli(*ask, "--answer", " Mary", "--foil", ","))
    ok(cli(*[part + " " if part in (CLEAN, CORRUPT) else part for part in ask], "--answer", "Mary", "--foil", "John"))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--senders", "movers=23.3+29.1,mlp.3", "--receivers", "k.24.0,blocks.25.hook_mlp_in,v.24.0", "--receiver-positions=-1"],
         {"senders": [(23, 3), (29, 1), ("mlp", 3)], "receivers": [("k", 24, 0), "blocks.25.hook_mlp_in", ("v", 24, 0)], "receiver_positions": -1}),
        (["--senders", "mlps", "--direction", "denoise", "--mlps", "freeze"], {"senders": "mlps", "direction": "denoise", "mlps": "freeze"}),
        (["--senders", "23.3", "--norms", "freeze", "--sender-positions", "9,13"], {"senders": (23, 3), "norms": "freeze", "sender_positions": [9, 13]}),
    ],
)  # fmt: skip
def test_every_option_asks_what_the_sdk_asks(cli, model, options, arguments):
    senders = arguments.pop("senders")
    if options[1].startswith("movers"):
        senders = {"movers": senders[:2], "mlp 3": senders[2]}
    wanted = model.path_patch(CLEAN, CORRUPT, senders, arguments.pop("receivers", "logits"), DIFF, **arguments)
    reply = json.loads(ok(cli(*ASK, "--json", *options)))
    np.testing.assert_allclose(reply["values"], wanted.values, atol=LIMIT)
    assert [(axis["name"], tuple(axis["labels"])) for axis in reply["axes"]] == [(axis.name, tuple(map(as_text, axis.labels))) for axis in wanted.axes]


def test_every_head_to_the_logits_is_a_map_of_layers_by_heads(cli, target, model):
    """The default; also on a terminal."""
    wanted = model.path_patch(CLEAN, CORRUPT, metric=DIFF).by_head()
    lines = ok(cli(*ASK)).splitlines()
    assert lines[4] == "receiver logits" and lines[5].split() == ["layer", *map(str, range(9))] and "270 cells" in lines[-1]
    rows = np.array([line.split() for line in lines[6:36]], float)
    assert rows[:, 0].tolist() == list(range(29, -1, -1))
    np.testing.assert_allclose(rows[::-1, 1:], wanted.normalized, atol=5.1e-4)
    shown = bare(on_a_terminal(["--target", target, *ASK], NO_COLOR="", TERM="xterm-256color", COLORTERM="truecolor")).splitlines()
    numbers = np.array([re.findall(r"-?\d\.\d\d", line) for line in shown if re.match(r" *\d+  *-?\d\.\d\d", line)], float)
    np.testing.assert_allclose(numbers[::-1], wanted.normalized, atol=5.1e-3)


def test_an_estimate_and_a_job(cli, model, few):
    expected = model.estimate_path_patch(CLEAN, CORRUPT, [(23, 3), (29, 1), ("mlp", 3), "embed"], ["logits", ("q", 24, 0)], DIFF)
    reply = json.loads(ok(cli(*ASK, *FEW, "--estimate", "--json")))
    assert (reply["cells"], reply["flops"], reply["peak_bytes"]) == (8, expected.flops, expected.peak_bytes)
    job = ok(cli(*ASK, *FEW, "--as-job", "--principal", "paths")).strip()
    watched = json.loads(ok(cli("jobs", "watch", job, "--principal", "paths", "--json")))
    np.testing.assert_allclose(np.array(watched["values"], float), few.values, atol=LIMIT)


def test_prompts_of_unequal_length(cli, model):
    corrupt = CORRUPT.replace("the shops", "the small shops")
    wanted = model.path_patch(CLEAN, corrupt, (23, 3), metric=DIFF, source_positions=model.align(corrupt, CLEAN))
    ask = [corrupt if part == CORRUPT else part for part in ASK]
    np.testing.assert_allclose(json.loads(ok(cli(*ask, "--senders", "23.3", "--align", "--json")))["values"], wanted.values, atol=LIMIT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--senders", "q.1.2"], ["--senders: 'q.1.2' is not heads", "9.6"]),
        (["--receivers", "1.2"], ["--receivers: '1.2' is not logits", "q.9.6"]),
        (["--senders", "30.1"], ["blocks.30.attn.hook_z", "NOT_FOUND"]),
        (["--senders", "5.1", "--receivers", "q.3.1"], ["no path from sender '5.1' to receiver 'q 3.1'", "in front of", "INVALID_ARGUMENT"]),
        (["--senders", "1.5=23.3"], ["--senders: the name '1.5' would be taken for a head"]),
        (["--senders", "movers="], ["--senders: ''"]),
        (["--sender-positions", "x"], ["--sender-positions: 'x'"]),
        (["--csv", "--json"], ["exclude each other"]),
        (["--senders", "caf\udce9=23.3"], ["fluoroscope: --senders: not UTF-8 text (INVALID_ARGUMENT)\n"]),
        (["--receivers", "caf\udce9=logits"], ["fluoroscope: --receivers: not UTF-8 text (INVALID_ARGUMENT)\n"]),
        (["--foil", "caf\udce9"], ["fluoroscope: --foil: not UTF-8 text (INVALID_ARGUMENT)\n"]),
    ],
)
def test_what_is_wrong_is_said(cli, arguments, words):
    done = cli(*ASK, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    for word in words:
        assert word in done.stderr
    assert done.stderr.count("\n") == 1, "nobody else complains"


def test_wrong_usage_and_help():
    for arguments, word in [(["path-patch", "m"], "--clean is required"), ([*ASK, "--mlps", "thaw"], "--mlps")]:
        done = run_cli(*arguments)
        assert (done.returncode, done.stdout) == (2, "") and word in done.stderr
    text = ok(run_cli("path-patch", "--help"))
    for word in ("--senders", "--receivers", "--mlps", "--sender-positions", "--align", "--csv", "--as-job", "Examples:", "movers="):
        assert word in text
    assert "fluoroscope path-patch" in ok(run_cli("--help"))
