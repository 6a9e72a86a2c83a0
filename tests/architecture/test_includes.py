"""Dependencies point one way. First the real tree, then trees with one mistake each, to show that the check can fail."""

from pathlib import Path

import pytest

import include_rules

ROOT = Path(__file__).parents[2]


def test_no_include_breaks_a_rule():
    found = include_rules.check_server(ROOT / "server")
    assert not found, "\n".join(found)


def test_the_walk_sees_the_tree():
    files = [path.relative_to(ROOT / "server").as_posix() for path in include_rules.sources(ROOT / "server")]
    assert {"main.cc", "base/cancel.h", "sched/executor.cc", "engine/engine.h"} <= set(files)
    assert not any("/target/" in name for name in files)
    assert "sched/executor.h" in include_rules.includes(ROOT / "server/sched/executor.cc")
    assert "api/tensor.h" in include_rules.reachable(ROOT / "server", "engine/engine.h")


@pytest.mark.parametrize("folder", ["server", "client", "tests"])
def test_no_file_is_too_long(folder):
    found = include_rules.check_lengths(ROOT / folder)
    assert not found, "\n".join(found)


def tree(root: Path, **files: str) -> Path:
    """A server/ with these files; "__" in a name stands for "/", a last "_h" or "_cc" for the ending."""
    for name, text in files.items():
        stem, ending = name.rsplit("_", 1)
        path = root / (stem.replace("__", "/") + "." + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GOOD = {
    "base__id_h": "#include <string>\n",
    "api__plan_h": '#include "base/id.h"\n',
    "tokenizer__tokenizer_h": '#include "api/plan.h"\n',
    "config__config_cc": '#include "fluoroscope/config/v1/config.pb.h"\n#include "google/protobuf/text_format.h"\n',
    "model__model_h": '#include <ATen/ATen.h>\n#include "api/plan.h"\n',
    "engine__engine_h": '#include "api/plan.h"\n',
    "engine__engine_impl_cc": '#include "engine/engine.h"\n#include "model/model.h"\n',
    "rpc__codec_h": '#include "fluoroscope/v1/plan.pb.h"\n#include "api/plan.h"\n',
    "rpc__services_cc": '#include <grpcpp/grpcpp.h>\n#include "engine/engine.h"\n#include "rpc/codec.h"\n',
    "main_cc": '#include "engine/engine.h"\n#include "rpc/codec.h"\n',
}


def test_a_good_tree_has_no_findings(tmp_path):
    assert include_rules.check_server(tree(tmp_path, **GOOD)) == []


@pytest.mark.parametrize(
    ("name", "text", "finding"),
    [
        ("base__bad_h", '#include "api/plan.h"', "base/bad.h: api/plan.h: the arrow points back: api/ is below base/"),
        ("model__bad_cc", '#include "engine/engine.h"', "model/bad.cc: engine/engine.h: the arrow points back: engine/ is below model/"),
        ("engine__bad_cc", '#include "rpc/codec.h"', "engine/bad.cc: rpc/codec.h: the arrow points back: rpc/ is below engine/"),
        ("api__bad_h", "#include <ATen/ATen.h>", "api/bad.h: ATen/ATen.h: api is free of LibTorch"),
        ("api__bad_h", '  #  include "torch/csrc/autograd/autograd.h"', "api/bad.h: torch/csrc/autograd/autograd.h: api is free of LibTorch"),
        ("rpc__bad_cc", "#include <c10/util/Exception.h>", "rpc/bad.cc: c10/util/Exception.h: rpc is free of LibTorch"),
        ("main_cc", "#include <ATen/ATen.h>", "main.cc: ATen/ATen.h: main.cc is free of LibTorch"),
        ("engine__bad_cc", '#include "fluoroscope/v1/plan.pb.h"', "engine/bad.cc: fluoroscope/v1/plan.pb.h: engine is free of protobuf"),
        ("sched__bad_cc", "#include <google/protobuf/message.h>", "sched/bad.cc: google/protobuf/message.h: sched is free of protobuf"),
        ("config__bad_h", '#include "a/b.pb.h"', "config/bad.h: a/b.pb.h: config is free of protobuf in its headers"),
        ("config__bad_cc", '#include "a/b.grpc.pb.h"', "config/bad.cc: a/b.grpc.pb.h: gRPC stays in rpc/"),
        ("main_cc", '#include "a/b.pb.h"', "main.cc: a/b.pb.h: main.cc is free of protobuf"),
        ("obs__bad_cc", "#include <grpcpp/grpcpp.h>", "obs/bad.cc: grpcpp/grpcpp.h: gRPC stays in rpc/"),
        ("rpc__bad_cc", '#include "model/model.h"', "rpc/bad.cc: model/model.h: rpc may use only api, base, config, engine, jobs, obs, rpc"),
        ("rpc__bad_cc", '#include "engine/other.h"', "rpc/bad.cc: engine/other.h: only engine/engine.h may be used from outside engine/"),
        ("main_cc", '#include "model/model.h"', "main.cc: model/model.h: main.cc may use only base, config, engine, obs, rpc"),
        ("engine__engine_h", '#include "engine/other.h"', "engine/engine.h: reaches LibTorch: engine/engine.h -> engine/other.h -> "
         "model/model.h -> ATen/ATen.h"),
        ("tensor__safetensors_header_cc", "#include <ATen/ATen.h>", "tensor/safetensors_header.cc: reaches LibTorch: "
         "tensor/safetensors_header.cc -> ATen/ATen.h"),
        ("model__bad_cc", '#include "model.h"', "model/bad.cc: model.h: a project header is included by its path from server/"),
        ("model__bad_cc", '#include "../base/id.h"', "model/bad.cc: ../base/id.h: a project header is included by its path from server/"),
        ("utils__bad_h", "", "utils/bad.h: not in a folder of the table"),
    ],
)
def test_one_mistake_is_found(tmp_path, name, text, finding):
    server = tree(tmp_path, **(GOOD | {"engine__other_h": '#include "model/model.h"\n', name: text + "\n"}))
    assert include_rules.check_server(server) == [finding]


def test_a_comment_is_no_include(tmp_path):
    server = tree(tmp_path, **GOOD, api__fine_h="// #include <ATen/ATen.h>\n")
    assert include_rules.check_server(server) == []


def test_a_long_file_is_found(tmp_path):
    tree(tmp_path, base__fine_h="\n" * 400, base__long_cc="\n" * 401)
    assert include_rules.check_lengths(tmp_path) == ["base/long.cc: 401 lines, at most 400"]
