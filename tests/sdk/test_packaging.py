"""Wheels, source distributions and editable installs bring the generated protobuf classes with them."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
PROTOS = {path.stem for path in (ROOT / "proto/fluoroscope/v1").glob("*.proto")}
STUBS = {f"fluoroscope/_proto/v1/{name}_pb2.{kind}" for name in PROTOS for kind in ("py", "pyi")}
# Imports the package, without the checkout on its path, and the classes of each file.
USE = f"""
import fluoroscope, fluoroscope._proto.v1.inference_pb2 as inference, importlib, sys
for name in {sorted(PROTOS)}:
    assert importlib.import_module("fluoroscope._proto.v1." + name + "_pb2").DESCRIPTOR.message_types_by_name
assert inference.ForwardRequest(model="m").SerializeToString() == b"\\n\\x01m"
assert "torch" not in sys.modules
print(fluoroscope.__version__, fluoroscope.__file__)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what the build needs: it must not touch the checkout that other tests import from."""
    copy = tmp_path_factory.mktemp("checkout")
    wanted = subprocess.run(["git", "ls-files", "sdk/python", "proto", "VERSION"], cwd=ROOT, capture_output=True, text=True)
    if wanted.returncode != 0:
        pytest.skip("the tests do not run in a git checkout")
    for name in wanted.stdout.split():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy / "sdk" / "python"


def environment(path: Path) -> Path:
    """A fresh environment that sees this one's dependencies but not its fluoroscope. Returns its Python."""
    venv.create(path, with_pip=False)
    python = path / "bin" / "python"
    site = next((path / "lib").glob("python*/site-packages"))
    ours = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(f"{ours}\n")  # plain path: its own .pth files, such as an editable fluoroscope, are not read
    return python


def run(*command: object, **options) -> str:
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which might lead to the checkout
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=elsewhere, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_contains_the_stubs_and_works(source, tmp_path):
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert STUBS <= names
    assert {"fluoroscope/py.typed", "fluoroscope/_proto/__init__.py"} <= names
    assert not any("scratch" in name or "setup.py" in name for name in names)
    python = environment(tmp_path / "venv")
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    assert f"{(ROOT / 'VERSION').read_text().strip()} {tmp_path}" in run(python, "-c", USE, cwd="/")


def test_a_source_distribution_builds_without_the_checkout(source, tmp_path):
    run(sys.executable, "-c", "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])", tmp_path, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, archive)
    (wheel,) = tmp_path.glob("*.whl")
    assert STUBS <= set(zipfile.ZipFile(wheel).namelist())


def test_an_editable_install_works(source, tmp_path):
    python = environment(tmp_path / "venv")
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", "--no-build-isolation", "--force-reinstall", "-e", source)
    assert str(source) in run(python, "-c", USE, cwd="/")
    assert all((source / name).is_file() for name in STUBS)
