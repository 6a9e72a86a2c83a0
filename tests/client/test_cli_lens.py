"""`fluoroscope lens` against the real server: its values are the SDK's."""

from __future__ import annotations

import csv
import io
import json
import re

import fluoroscope as fs
import numpy as np
import pytest

from .conftest import run_cli, serving
from .test_cli import FRANCE, ok, on_a_terminal
from .test_cli_paths import ASK as PATHS
from .test_cli_sweep import ASK as SWEEP
from .test_cli_sweep import bare

ASK = ["lens", "smollm2-135m", FRANCE]
LIMIT = 1e-4  # of logits around 20 that come out of another batch


@pytest.fixture(scope="module")
def model(target):
    with fs.connect(target) as client:
        yield client.model("smollm2-135m")


@pytest.fixture(scope="module")
def whole(model):
    return model.logit_lens(FRANCE)


def table(reply: dict, name: str) -> np.ndarray:
    return np.array([[[one[name] for one in cell] for cell in layer] for layer in reply["predictions"]], object)


def assert_same(reply: dict, lens: fs.LogitLens) -> None:
    assert (reply["layers"], reply["positions"], reply["site"]) == (list(lens.layers), list(lens.positions), lens.site)
    np.testing.assert_array_equal(table(reply, "id"), lens.tokens)
    np.testing.assert_array_equal(table(reply, "token"), lens.texts)
    for name, values in (("logit", lens.logits), ("log_probability", lens.logprobs), ("probability", lens.probs)):
        np.testing.assert_allclose(table(reply, name).astype(float), values, atol=LIMIT)


def test_json_is_the_sdks_result(cli, whole):
    reply = json.loads(ok(cli(*ASK, "--json")))
    assert_same(reply, whole)
    assert [token["token"] for token in reply["tokens"]] == ["The", " capital", " of", " France", " is"]
    assert reply["predictions"][29][4][0]["token"] == " Paris" and reply["provenance"]["model"] == "smollm2-135m"


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--site", "mlp_out", "--layers=-1,3", "--positions", "0,4", "--top", "2"], {"site": "mlp_out", "layers": [-1, 3], "positions": [0, 4], "top_k": 2}),
        (["--token", " Paris", "--token", " London", "--layers", "20-29"], {"tokens": [" Paris", " London"], "layers": list(range(20, 30))}),
    ],
)
def test_every_option_asks_what_the_sdk_asks(cli, model, options, arguments):
    assert_same(json.loads(ok(cli(*ASK, "--json", *options))), model.logit_lens(FRANCE, **arguments))


def test_the_least_server_is_enough(cli, tmp_path):
    """The texts of many tokens are asked for one prompt at a time."""
    ask = [*ASK, "--top", "20", "--json"]
    with serving(tmp_path, "limits { max_prompts: 1 }") as target:
        tight = json.loads(ok(run_cli(*ask, target=target)))
    known = json.loads(ok(cli(*ask)))
    texts = dict(zip(table(known, "id").ravel(), table(known, "token").ravel(), strict=True))
    assert len(texts) > 2 * 64, "more than two requests"
    found = dict(zip(table(tight, "id").ravel(), table(tight, "token").ravel(), strict=True))
    assert found == {id: texts[id] for id in found}


def test_csv_has_a_line_per_token(cli, whole):
    lines = list(csv.DictReader(io.StringIO(ok(cli(*ASK, "--csv")))))
    assert list(lines[0]) == ["layer", "position", "prompt_token", "rank", "token", "id", "logit", "log_probability"]
    assert [line["token"] for line in lines] == whole.texts.ravel().tolist()
    assert [int(line["id"]) for line in lines] == whole.tokens.ravel().tolist()
    assert [(line["layer"], line["position"], line["prompt_token"], line["rank"]) for line in lines[:6]] == [
        *(("0", "0", "The", str(rank)) for rank in range(1, 6)), ("0", "1", " capital", "1")]  # fmt: skip
    np.testing.assert_allclose([float(line["log_probability"]) for line in lines], whole.logprobs.ravel(), atol=LIMIT)


def test_tables_in_a_pipe(cli, model, whole):
    lines = ok(cli(*ASK)).splitlines()
    assert lines[3].split() == "layer 0 The 1 capital 2 of 3 France 4 is".split() and len(lines) == 3 + 31 + 2
    assert [int(line.split()[0]) for line in lines[4:34]] == list(range(29, -1, -1)) and lines[4].endswith("Paris 0.77")
    lines = ok(cli(*ASK, "--positions=-1", "--layers", "28-29", "--top", "3")).splitlines()
    assert "position 4 is" in lines[1] and lines[3].split() == ["layer", "1", "2", "3"]
    best = whole.top(29, -1)
    assert lines[4].split()[1:] == [part for token in list(best)[:3] for part in (token.token.strip(), f"{np.exp(token.logprob):.2f}")]
    lines = ok(cli(*ASK, "--token", " Paris", "--token", " London")).splitlines()
    assert [line for line in lines if line.startswith('"')] == ['" Paris"', '" London"']
    shown = np.array([line.split() for line in lines if re.match(r" *\d+  ", line)], float)[:30]
    np.testing.assert_allclose(shown[::-1, 1:], model.logit_lens(FRANCE, tokens=" Paris").probs[..., 0], atol=5.1e-4)


def test_a_heat_map_of_tokens_on_a_terminal(target, whole):
    text = on_a_terminal(["--target", target, *ASK], NO_COLOR="", TERM="xterm-256color", COLORTERM="truecolor")
    assert "\x1b[48;2;" in text
    rows = [line for line in bare(text).splitlines() if re.match(r" {0,6}\d+ ", line)]
    assert all(len(line) <= 80 for line in rows) and [int(row.split()[0]) for row in rows[:30]] == list(range(29, -1, -1))
    assert rows[0].split()[-1] == whole.texts[29, 4, 0].strip() == "Paris"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--site", "z"], ["INVALID_ARGUMENT", "hook_z"]),
        (["--token", " Parisian suburb"], ["INVALID_ARGUMENT", " Parisian suburb"]),
        (["--layers", "30"], ["0 to 29"]),
        (["--top", "50000"], ["49152"]),
        (["--positions", "9"], ["9"]),
        (["--json", "--csv"], ["exclude each other"]),
    ],
)
def test_what_is_wrong_is_said(cli, arguments, words):
    done = cli(*ASK, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", [ASK, SWEEP, PATHS], ids=lambda command: command[0])
def test_an_empty_list_does_not_mean_all(command):
    for option in {"lens": ["--positions", "--layers"], "sweep": ["--positions", "--source-positions"], "path-patch": ["--sender-positions"]}[command[0]]:
        done = run_cli(*command, option, "")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{option}: an empty list is not a list of numbers" in done.stderr


def test_help_suffices():
    text = ok(run_cli("lens", "--help"))
    for word in ("--site", "--layers", "--positions", "--top", "--token", "--csv", "Examples:"):
        assert word in text
    assert "fluoroscope lens" in ok(run_cli("--help"))
