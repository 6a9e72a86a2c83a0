"""`fluoroscope sweep` against the real server: its values are the SDK's, in every form of output."""

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

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
BASE = ["sweep", "smollm2-135m", "--clean", CLEAN, "--corrupt", CORRUPT, "--answer", " Mary"]
ASK = [*BASE, "--foil", " John"]
DIFF = fs.metrics.logit_diff(" Mary", " John")
LIMIT = 1e-5


@pytest.fixture(scope="module")
def model(target):
    with fs.connect(target) as client:
        yield client.model("smollm2-135m")


@pytest.fixture(scope="module")
def whole(model):
    """The 30 x 14 sweep by the SDK."""
    return model.sweep(CLEAN, CORRUPT, metric=DIFF)


def test_json_is_the_sdks_result(cli, whole):
    reply = json.loads(ok(cli(*ASK, "--json")))
    np.testing.assert_allclose(reply["values"], whole.values, atol=LIMIT)
    np.testing.assert_allclose(reply["normalized"], whole.normalized, atol=LIMIT)
    assert (reply["base"], reply["source"]) == (pytest.approx(whole.base[0], abs=LIMIT), pytest.approx(whole.source[0], abs=LIMIT))
    assert [(axis["name"], tuple(axis["labels"])) for axis in reply["axes"]] == [(axis.name, axis.labels) for axis in whole.axes]
    assert (reply["metric"], reply["cells"], reply["filled_cells"], reply["warnings"]) == ("logit_diff", 420, whole.estimate.filled_cells, [])
    assert reply["sweep"] == "hook_resid_pre: clean values into the corrupt run"
    assert [reply[run][9]["token"] for run in ("clean", "corrupt")] == [" John", " Mary"]
    assert reply["provenance"]["model"] == "smollm2-135m"


def test_an_estimate_instead_of_a_sweep(cli, model, whole):
    expected = model.estimate_sweep(CLEAN, CORRUPT, metric=DIFF)
    reply = json.loads(ok(cli(*ASK, "--estimate", "--json")))
    assert reply == {name: getattr(expected, name) for name in ("cells", "filled_cells", "flops", "forwards_flops", "peak_bytes", "budget_bytes")}
    lines = ok(cli(*ASK, "--estimate")).splitlines()
    assert lines[0] == f"420 cells, of which {whole.estimate.filled_cells} need no run"
    assert f"{expected.saved:.1f} times less" in lines[1] and len(lines) == 3
    assert cli(*ASK, "--estimate", "--csv").returncode != 0


def test_fast_says_how_far_off_it_is(cli, model, whole):
    expected = model.sweep(CLEAN, CORRUPT, metric=DIFF, precision="fast")
    reply = json.loads(ok(cli(*ASK, "--precision", "fast", "--json")))
    np.testing.assert_array_equal(reply["values"], expected.values)
    check = reply["precision"]
    assert (check["cells"], check["largest_difference"], check["largest_change"]) == (
        len(expected.precision.cells), expected.precision.largest_difference, expected.precision.largest_change,
    )  # fmt: skip
    assert 0 < check["largest_difference"] < 0.1 and reply["provenance"]["dtype"] == "f32, matrix products in bfloat16"
    assert "cells run again in float32: off by at most" in ok(cli(*ASK, "--precision", "fast")).splitlines()[-1]
    assert json.loads(ok(cli(*ASK, "--json")))["precision"] is None


def test_csv_has_a_line_per_cell(cli, whole):
    lines = list(csv.DictReader(io.StringIO(ok(cli(*ASK, "--csv")))))
    assert list(lines[0]) == ["layer", "position", "logit_diff", "normalized"] and len(lines) == 420
    assert [line["position"] for line in lines[:14]] == list(whole.axes[1].labels)  # one of them is "8:," in quotes
    for name, values in (("logit_diff", whole.values), ("normalized", whole.normalized)):
        np.testing.assert_allclose([float(line[name]) for line in lines], values.ravel(), atol=LIMIT)


def test_plain_numbers_in_a_pipe_with_layers_from_bottom_to_top(cli, whole):
    lines = ok(cli(*ASK)).splitlines()
    assert lines[0] == "hook_resid_pre: clean values into the corrupt run"
    assert "Shown: 0 is the corrupt run, 1 the clean run." in lines[2]
    assert lines[4].split()[:3] == ["layer", "0", "When"] and "9 Mary" in lines[4]
    rows = [line.split() for line in lines[5:35]]
    assert [int(row[0]) for row in rows] == list(range(29, -1, -1))
    np.testing.assert_allclose(np.array(rows, float)[::-1, 1:], whole.normalized, atol=5.1e-4)
    assert "\x1b" not in "".join(lines) and "420 cells" in lines[-1]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--site", "z", "--over", "layer,head"], {"site": "z", "over": ("layer", "head")}),
        (["--direction", "noise", "--layers", "3,10-12", "--positions=9,-1"], {"direction": "noise", "layers": [3, 10, 11, 12], "positions": [9, -1]}),
        (["--site", "resid_pre,mlp_out", "--over", "layer", "--layers=-2,-1"], {"site": ["resid_pre", "mlp_out"], "over": ["layer"], "layers": [-2, -1]}),
        (["--site", "pattern", "--over", "position,source", "--layers", "12", "--heads", "3"],
         {"site": "pattern", "over": ("position", "source"), "layers": 12, "heads": 3}),
        (["--site", "post", "--over", "unit", "--unit-block", "256", "--layers", "5"], {"site": "post", "over": ["unit"], "unit_block": 256, "layers": 5}),
        (["--kind", "zero", "--site", "attn_out", "--window", "2", "--group", "names=1,3,9", "--group", "end=-1"],
         {"kind": "zero", "site": "attn_out", "window": 2, "groups": {"names": [1, 3, 9], "end": [-1]}}),
        (["--site", "z", "--over", "layer,head,second_layer,second_head", "--layers", "20-22", "--heads", "0,4", "--second-layers=-2", "--second-heads", "4"],
         {"site": "z", "over": ("layer", "head", "second_layer", "second_head"), "layers": [20, 21, 22], "heads": [0, 4], "second_layers": -2,
          "second_heads": 4}),
        (["--kind", "mean", "--reference", "A dog.", "--reference", "Two", "--over", "layer"], {"kind": "mean", "references": ["A dog.", "Two"], "over": "layer"}),
    ],
)  # fmt: skip
def test_every_option_asks_what_the_sdk_asks(cli, model, options, arguments):
    wanted = model.sweep(CLEAN, CORRUPT, metric=DIFF, **arguments)
    reply = json.loads(ok(cli(*ASK, "--json", *options)))
    np.testing.assert_allclose(reply["values"], wanted.values, atol=LIMIT)
    assert [(axis["name"], tuple(axis["labels"])) for axis in reply["axes"]] == [(axis.name, axis.labels) for axis in wanted.axes]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_prompts_of_unequal_length_are_aligned_as_the_sdk_does(cli, model, direction):
    clean, corrupt = CLEAN, CORRUPT.replace("to the shops", "to the small shops")
    source, base = (clean, corrupt) if direction == "denoise" else (corrupt, clean)
    mapped = model.align(source, base)
    assert mapped != list(range(len(mapped)))
    wanted = model.sweep(clean, corrupt, metric=DIFF, direction=direction, layers=[3, 20], source_positions=mapped)
    ask = ["sweep", "smollm2-135m", "--clean", clean, "--corrupt", corrupt, "--answer", " Mary", "--foil", " John", "--direction", direction, "--layers", "3,20"]
    np.testing.assert_allclose(json.loads(ok(cli(*ask, "--align", "--json")))["values"], wanted.values, atol=LIMIT)
    refused = cli(*ask, "--align", "--source-positions", "0")
    assert refused.returncode != 0 and "--align and --source-positions exclude each other" in refused.stderr
    assert "source_positions" in cli(*ask).stderr


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ([], fs.metrics.logits(" Mary")),
        (["--metric", "prob", "--answer", " John"], fs.metrics.prob([" Mary", " John"])),
        (["--metric", "logprob"], fs.metrics.logprob(" Mary")),
        (["--metric", "rank"], fs.metrics.rank(" Mary")),
    ],
)
def test_metrics(cli, model, options, metric):
    reply = json.loads(ok(cli(*BASE, "--json", "--layers", "10", *options)))
    np.testing.assert_allclose(reply["values"], model.sweep(CLEAN, CORRUPT, metric=metric, layers=10).values, atol=LIMIT)
    assert reply["metric"] == metric.name


def test_prompts_of_unequal_length(cli, model):
    longer = CLEAN.replace("the shops", "the big shops")
    mapped = model.align(longer, CORRUPT)
    reply = json.loads(ok(cli("sweep", "smollm2-135m", "--clean", longer, "--corrupt", CORRUPT, "--answer", " Mary", "--foil", " John", "--json",
                              "--source-positions=" + ",".join(map(str, mapped)), "--layers", "4")))  # fmt: skip
    wanted = model.sweep(longer, CORRUPT, metric=DIFF, layers=4, source_positions=mapped)
    np.testing.assert_allclose(reply["values"], wanted.values, atol=LIMIT)


def test_handles_as_the_source(cli, target):
    """Kept by the SDK; the prompt that they came from may be left out."""
    with fs.connect(target, principal="sweeps") as client:
        model = client.model("smollm2-135m")
        with model.keep(CLEAN, ["blocks.3.hook_resid_pre", "blocks.20.hook_resid_pre"]) as kept:
            ids = [handle.id for handle in kept.values()]
            wanted = model.sweep(None, CORRUPT, metric=DIFF, layers=[3, 20], source=kept)
            ask = [part for part in ASK if part not in ("--clean", CLEAN)] + ["--layers", "3,20", "--principal", "sweeps", "--source-handle", ",".join(ids)]
            reply = json.loads(ok(cli(*ask, "--json")))
            np.testing.assert_allclose(reply["values"], wanted.values, atol=LIMIT)
            assert (reply["clean"], reply["source"], reply["normalized"]) == ([], None, None)
            assert reply["sweep"] == "hook_resid_pre: the handles' values into the corrupt run"
            lines = ok(cli(*ask)).splitlines()
            assert lines[1] == f"logit_diff is {wanted.base[0]:.3f} in the corrupt run." and lines[2] == "Shown: its value in each cell."
            both = json.loads(ok(cli(*ask, "--clean", CLEAN, "--json")))
            np.testing.assert_allclose(both["normalized"], model.sweep(CLEAN, CORRUPT, metric=DIFF, layers=[3, 20]).normalized, atol=LIMIT)
        gone = cli(*ask)
        assert gone.returncode == 1 and "NOT_FOUND" in gone.stderr


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*[mK]", "", text).replace("\r\n", "\n")


def test_a_heat_map_on_a_terminal(target, whole):
    command = ["--target", target, *ASK]
    text = on_a_terminal(command, NO_COLOR="", TERM="xterm-256color", COLORTERM="truecolor")
    assert "\x1b[48;2;" in text
    lines = bare(text).splitlines()
    rows = [line for line in lines if re.match(r" *\d+  *-?\d\.\d\d", line)]
    assert [int(row[:7]) for row in rows] == list(range(29, -1, -1)) and all(len(line) <= 80 for line in rows)
    shown = np.array([[float(number) for number in re.findall(r"-?\d\.\d\d", row)] for row in rows])[::-1]
    np.testing.assert_allclose(shown, whole.normalized, atol=5.1e-3)
    assert any("9 Mary" in line for line in lines)
    cube = on_a_terminal(command, NO_COLOR="", TERM="xterm-256color", COLORTERM="")
    assert "\x1b[48;5;" in cube and "\x1b[48;2;" not in cube
    for environment in ({"NO_COLOR": "1", "TERM": "xterm-256color"}, {"NO_COLOR": "", "TERM": "dumb"}):
        assert "\x1b[48" not in on_a_terminal(command, **environment)


def test_raw_shows_the_metric(cli, model):
    lines = ok(cli(*ASK, "--raw", "--over", "layer", "--positions=-1", "--layers", "0,29")).splitlines()
    wanted = model.sweep(CLEAN, CORRUPT, metric=DIFF, over="layer", positions=-1, layers=[0, 29]).values
    assert lines[4].split() == ["layer", "logit_diff"]
    assert [float(line.split()[1]) for line in lines[5:7]] == pytest.approx([wanted[1], wanted[0]], abs=5.1e-4)


def test_three_axes_are_several_maps(cli):
    out = ok(cli(*ASK, "--site", "z", "--over", "head,layer,position", "--heads", "2,5", "--layers", "0-1"))
    assert re.findall(r"^head \d$", out, re.MULTILINE) == ["head 2", "head 5"] and out.count("9 Mary") == 2


def test_equal_prompts_are_answered_with_a_warning(cli):
    done = cli("sweep", "smollm2-135m", "--clean", CLEAN, "--corrupt", CLEAN, "--answer", " Mary", "--layers", "0")
    assert done.returncode == 0 and done.stderr.startswith("warning: pairs[0]") and "same tokens" in done.stderr
    assert "Shown: its value in each cell." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--answer", " Maryland is"], ["metrics[0]", " Maryland is", "INVALID_ARGUMENT"]),
        (["--site", "q_input"], ["hook_q_input", "read but not edited", "FAILED_PRECONDITION"]),
        (["--site", "residual"], ["hook_residual", "NOT_FOUND"]),
        (["--positions", "14"], ["14", "INVALID_ARGUMENT"]),
        (["--layers", "30"], ["0 to 29"]),
        (["--layers", "1,x"], ["--layers", "'1,x'", "0,2,5-9,-1"]),
        (["--heads=-1"], ["--heads", "-1 is negative"]),
        (["--over", "position", "--window", "2"], ["window is 2"]),
        (["--metric", "prob"], ["--foil belongs to logit_diff"]),
        (["--group", "end"], ["--group 'end' is not NAME=POSITIONS"]),
        (["--json", "--csv"], ["--json and --csv exclude each other"]),
        (["--clean", "caf\udce9"], ["the clean prompt is not UTF-8 text"]),
        (["--clean", "Short"], ["pairs[0]", "source_positions"]),
    ],
)
def test_what_is_wrong_is_said(cli, arguments, words):
    done = cli(*(argument for argument in ASK if arguments[0] != "--clean" or argument not in ("--clean", CLEAN)), *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sweep", "m", "--answer", "a"], "--clean is required"),
        (["sweep", "m", "--answer", "a", "--corrupt", "c", "--direction", "noise", "--source-handle", "h"], "--clean is required"),
        ([*BASE[:-2]], "--answer is required"),
        ([*ASK, "--over", "place"], "place"),
        ([*ASK, "--direction", "up"], "--direction"),
        ([*ASK, "--kind", "add"], "--kind"),
        ([*ASK, "--window", "0"], "--window"),
        ([*ASK, "extra"], "extra"),
    ],
)
def test_wrong_usage(arguments, word):
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "") and word in done.stderr


def test_help_suffices():
    text = ok(run_cli("sweep", "--help"))
    for word in ("--clean", "--corrupt", "--answer", "--foil", "--metric", "--site", "--over", "--direction", "--kind", "--layers", "--heads", "--positions",
                 "--group", "--window", "--raw", "--csv", "Examples:", "layer,head"):  # fmt: skip
        assert word in text
    assert "fluoroscope sweep" in ok(run_cli("--help"))
    assert "Examples" not in ok(run_cli("run", "--help"))
