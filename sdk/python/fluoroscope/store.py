"""The model store: where checkpoints lie on this machine.

The store is `$FLUOROSCOPE_HOME` (default `~/.cache/fluoroscope`). A model is an ordinary Hugging Face directory under `models/NAME`; a small
manifest beside its files (`fluoroscope.json`) says where they came from and what bytes they should have.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MANIFEST = "fluoroscope.json"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def home() -> Path:
    """The store's directory: `$FLUOROSCOPE_HOME`, else `~/.cache/fluoroscope`. It may not exist yet."""
    value = os.environ.get("FLUOROSCOPE_HOME")
    return Path(value).expanduser() if value else Path.home() / ".cache" / "fluoroscope"


def check_name(name: str) -> str:
    """`name`, if it can name a model of the server and a directory of the store; else ValueError."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"{name!r} is not a model name: 1 to 64 letters, digits, '.', '_' or '-' are allowed")
    return name


def model_path(name: str) -> Path:
    """Where the model called `name` lies, or would lie."""
    return home() / "models" / check_name(name)


def installed() -> list[str]:
    """Names of the models that are complete, in alphabetical order."""
    root = home() / "models"
    return sorted(p.name for p in root.iterdir() if (p / MANIFEST).is_file()) if root.is_dir() else []


def sha256_of(path: Path, on_bytes: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file as lower-case hex. `on_bytes` hears how many bytes each step read (for a progress bar)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            if on_bytes:
                on_bytes(len(block))
    return digest.hexdigest()


def write_manifest(directory: Path, source: dict[str, Any], on_bytes: Callable[[int], object] | None = None) -> dict[str, Any]:
    """Hashes every file of `directory` and records the result there. `source` says where the files came from."""
    files = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": sha256_of(path, on_bytes)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {"format": 1, "source": source, "files": files}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def problem_with(directory: Path, full: bool = False) -> str | None:
    """What is wrong with a stored model, or None. Compares names and sizes; with `full`, the SHA-256 of every file too."""
    try:
        files = json.loads((directory / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest {MANIFEST} cannot be read: {error}"
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}"
        if full and sha256_of(path) != expected["sha256"]:
            return f"{name} has other bytes than when it was made (SHA-256 differs)"
    return None


@contextlib.contextmanager
def new_model(name: str) -> Iterator[Path]:
    """An empty directory to fill; it becomes the model `name` when the block ends well, and vanishes when it does not.

    Nobody ever sees half a model: the directory is renamed into place as the last step. Two processes that fetch the same model take turns
    (see `lock`).
    """
    target = model_path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        yield directory
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # a server of another user may read what this one fetched
        if target.exists():
            shutil.rmtree(target)
        directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds the right to make the model `name`; waits while another process holds it. Freed by the kernel if the process dies."""
    path = model_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
