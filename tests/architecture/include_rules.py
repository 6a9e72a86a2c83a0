"""The rules of who may include whom in server/, as data, and the walk that finds what breaks them.

A folder may use itself and the folders above it in the table. The rest of the rules say where LibTorch, protobuf and gRPC stay,
so that codecs, scheduler, jobs and parsers build and fuzz without LibTorch and a second transport would be one folder.
"""

import re
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 400  # past it, something in the file wants a room of its own


@dataclass(frozen=True)
class Folder:
    name: str
    torch: bool = False
    protobuf: str = ""  # "": never; "cc": in its .cc files only; "all"


# In the order of the arrows. A new folder gets its line here and its place in server/CMakeLists.txt.
FOLDERS = [
    Folder("base"),
    Folder("obs"),
    Folder("config", protobuf="cc"),
    Folder("api"),
    Folder("sched"),
    Folder("jobs"),
    Folder("residency"),
    Folder("tokenizer"),
    Folder("tensor", torch=True),
    Folder("sae", torch=True),
    Folder("model", torch=True),
    Folder("intervention", torch=True),
    Folder("run", torch=True),
    Folder("store"),
    Folder("sweep", torch=True),
    Folder("attribution", torch=True),
    Folder("generate", torch=True),
    Folder("features", torch=True),
    Folder("drift", torch=True),
    Folder("engine", torch=True),
    Folder("rpc", protobuf="all"),
]
BY_NAME = {folder.name: folder for folder in FOLDERS}
ORDER = {folder.name: place for place, folder in enumerate(FOLDERS)}

FACADE = "engine/engine.h"  # all that the transport and main see of the engine
ONLY = {  # these do not get every row above them
    "rpc": {"rpc", "engine", "jobs", "api", "config", "obs", "base"},
    "main.cc": {"rpc", "engine", "config", "obs", "base"},
}
# Free of LibTorch with all that they include, although their folder is not.
TORCH_FREE = [FACADE, "tensor/safetensors_header.cc", "tensor/safetensors_index.cc", "tensor/strict_json.cc"]

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)


def is_torch(include: str) -> bool:
    return include.split("/")[0] in {"ATen", "c10", "torch", "caffe2"}


def is_protobuf(include: str) -> bool:
    return include.endswith(".pb.h") or include.startswith("google/protobuf/")


def is_grpc(include: str) -> bool:
    return include.split("/")[0] in {"grpc", "grpcpp"} or include.endswith(".grpc.pb.h")


def sources(root: Path) -> list[Path]:
    """Every C++ file below root, without what Cargo builds."""
    return sorted(p for p in root.rglob("*") if p.suffix in {".h", ".cc"} and "target" not in p.relative_to(root).parts)


def includes(path: Path) -> list[str]:
    return [quoted or angled for quoted, angled in INCLUDE.findall(path.read_text(encoding="utf-8"))]


def reachable(server: Path, start: str) -> dict[str, str]:
    """Every include that `start` reaches through files of server/, each with the chain that leads to it."""
    chains: dict[str, str] = {}
    todo = [(start, start)]
    while todo:
        file, chain = todo.pop()
        if not (server / file).is_file():
            continue
        for include in includes(server / file):
            if include not in chains:
                chains[include] = f"{chain} -> {include}"
                todo.append((include, chains[include]))
    return chains


def check_include(server: Path, path: Path, include: str) -> str | None:
    """Why `path` may not include `include`; None when it may."""
    name = path.relative_to(server).as_posix()
    owner = name.split("/")[0]  # a folder, or main.cc
    folder = BY_NAME.get(owner, Folder(owner))
    if is_torch(include):
        return None if folder.torch else f"{owner} is free of LibTorch"
    if is_grpc(include):
        return None if owner == "rpc" else "gRPC stays in rpc/"
    if is_protobuf(include):
        allowed = folder.protobuf == "all" or (folder.protobuf == "cc" and path.suffix == ".cc")
        return None if allowed else f"{owner} is free of protobuf" + (" in its headers" if folder.protobuf else "")
    if not (server / include).is_file():
        beside = (path.parent / include).is_file()
        return "a project header is included by its path from server/" if beside else None
    target = include.split("/")[0]
    if target not in ORDER:
        return f"{target}/ is not in the table of folders"
    if target == "engine" and owner != "engine" and include != FACADE:
        return f"only {FACADE} may be used from outside engine/"
    if owner in ONLY and target not in ONLY[owner]:
        return f"{owner} may use only {', '.join(sorted(ONLY[owner]))}"
    if owner in ORDER and ORDER[target] > ORDER[owner]:
        return f"the arrow points back: {target}/ is below {owner}/"
    return None


def check_server(server: Path) -> list[str]:
    """Everything in server/ that breaks a rule, as "file: include: why"."""
    found = []
    for path in sources(server):
        name = path.relative_to(server).as_posix()
        if name != "main.cc" and name.split("/")[0] not in ORDER:
            found.append(f"{name}: not in a folder of the table")
        found += [f"{name}: {include}: {why}" for include in includes(path) if (why := check_include(server, path, include))]
    for start in TORCH_FREE:
        for include, chain in reachable(server, start).items():
            if is_torch(include):
                found.append(f"{start}: reaches LibTorch: {chain}")
    return found


def check_lengths(root: Path) -> list[str]:
    lengths = {path: path.read_bytes().count(b"\n") for path in sources(root)}
    return [f"{path.relative_to(root).as_posix()}: {n} lines, at most {MAX_LINES}" for path, n in lengths.items() if n > MAX_LINES]
