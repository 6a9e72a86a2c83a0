"""scripts/setup on a machine that lacks packages: a copy of it, with stand-ins for what it asks and for what it must not run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "sudo apt-get update && sudo apt-get install -y --no-install-recommends"


def stand_in(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_whoever_is_not_root_is_told_the_command(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    fakes, called = tmp_path / "fakes", tmp_path / "called"
    stand_in(fakes, "dpkg-query", 'for package; do :; done; case $package in mold | libsqlite3-dev | clang-14) exit 1 ;; esac; printf installed')
    stand_in(fakes, "id", "echo 1000")
    for name in ("apt-get", "sudo", "python3", "cmake", "git"):
        stand_in(fakes, name, f'echo {name} "$@" >>"{called}"')
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    for arguments, missing in (([], "mold libsqlite3-dev"), (["--dev"], "mold libsqlite3-dev clang-14"), (["--packages-only"], "mold libsqlite3-dev")):
        done = subprocess.run([tmp_path / "scripts/setup", *arguments], capture_output=True, text=True, env=os.environ | {"PATH": f"{fakes}:/usr/bin:/bin"})
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines()[1:] == ["", f"  {COMMAND} {missing}", ""]
        assert "needs root" in done.stdout
    assert not called.exists(), called.read_text()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
