"""Adds one step to the build: the protobuf classes are generated from the repository's .proto files into fluoroscope/_proto.

Wheels, editable installs and source distributions all go through here, so no generated file is ever committed.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# In a source distribution the .proto files and VERSION lie beside this file; in the repository, where everyone shares them.
ROOT = HERE if (HERE / "proto").is_dir() else HERE.parents[1]
PACKAGE = "fluoroscope/v1"


def generate(target: Path) -> None:
    """Writes _proto/v1/*_pb2.py and .pyi under `target`, with imports that work inside the package."""
    import grpc_tools
    from grpc_tools import protoc

    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto" / PACKAGE).glob("*.proto"))
    if not protos:
        raise FileNotFoundError(f"no .proto files under {ROOT / 'proto' / PACKAGE}")
    out = target / "fluoroscope" / "_proto"
    scratch = out / "scratch"
    shutil.rmtree(out, ignore_errors=True)
    scratch.mkdir(parents=True)
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    command = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={scratch}", f"--pyi_out={scratch}", *protos]
    if protoc.main(command) != 0:
        raise RuntimeError("protoc failed: " + " ".join(command))
    for generated in (scratch / PACKAGE).iterdir():
        text = re.sub(r"^from fluoroscope\.v1(?=[ .])", "from fluoroscope._proto.v1", generated.read_text(), flags=re.MULTILINE)
        destination = out / "v1" / generated.name
        destination.parent.mkdir(exist_ok=True)
        destination.write_text(text)
    shutil.rmtree(scratch)
    for folder in (out, out / "v1"):
        (folder / "__init__.py").write_text('"""Generated when the package is built; see setup.py."""\n')


class BuildWithProtos(build_py):
    def run(self):
        super().run()
        generate(HERE if self.editable_mode else Path(self.build_lib))


class SourceWithProtos(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        target = Path(base_dir) / "proto" / PACKAGE
        target.mkdir(parents=True, exist_ok=True)
        for proto in (ROOT / "proto" / PACKAGE).glob("*.proto"):
            shutil.copy(proto, target)
        shutil.copy(ROOT / "VERSION", base_dir)


setup(version=(ROOT / "VERSION").read_text().strip(), cmdclass={"build_py": BuildWithProtos, "sdist": SourceWithProtos})
