"""`fluoroscope jobs` against a real server."""

import json
import re

import pytest

SWEEP = [
    "sweep", "smollm2-135m", "--clean", "When John and Mary went to the shops, John gave the bag to",
    "--corrupt", "When John and Mary went to the shops, Mary gave the bag to", "--answer", " Mary", "--foil", " John", "--layers", "9",
]  # fmt: skip
ME = ["--principal", "me"]


@pytest.fixture
def job(cli):
    done = cli(*SWEEP, "--as-job", *ME)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[0-9a-f]{32}\n", done.stdout)
    yield done.stdout.strip()
    cli("jobs", "delete", done.stdout.strip(), *ME)


def test_watched_it_shows_what_the_sweep_shows(cli, job):
    direct = json.loads(cli(*SWEEP, "--json").stdout)
    watched = cli("jobs", "watch", job, "--json", *ME)
    assert watched.returncode == 0, watched.stderr
    result = json.loads(watched.stdout)
    assert max(abs(a - b) for a, b in zip(result["values"][0], direct["values"][0], strict=True)) < 1e-6
    assert (result["sweep"], result["axes"]) == (direct["sweep"], direct["axes"])
    assert cli("jobs", "watch", job, "--csv", *ME).stdout.splitlines()[0].startswith("layer,position,")
    assert "hook_resid_pre: clean values into the corrupt run" in cli("jobs", "watch", job, *ME).stdout
    listed = cli("jobs", *ME)
    assert re.search(rf"{job}  sweep +smollm2-135m +done +14 +14 ", listed.stdout), listed.stdout
    [entry] = json.loads(cli("jobs", "list", "--json", *ME).stdout)["jobs"]
    assert (entry["id"], entry["state"], entry["cells_done"], entry["code"]) == (job, "done", 14, "")


def test_cancel_and_delete(cli, job):
    cli("jobs", "watch", job, *ME)
    late = cli("jobs", "cancel", job, *ME)
    assert late.returncode == 1 and "a job that is done cannot become cancelled" in late.stderr
    assert cli("jobs", "delete", job, *ME).returncode == 0
    gone = cli("jobs", "watch", job, *ME)
    assert gone.returncode == 1 and "NOT_FOUND" in gone.stderr


def test_without_a_name_it_says_what_to_do(cli):
    for command in (["jobs"], ["jobs", "watch", "0" * 32], [*SWEEP, "--as-job"]):
        done = cli(*command)
        assert done.returncode == 1 and "--principal NAME, or FLUOROSCOPE_PRINCIPAL" in done.stderr
    assert cli("jobs", "watch", *ME).returncode == 2
