"""Ragged, names and the assembling of batches."""

import numpy as np
import pytest
from fluoroscope import DataLossError, Ragged, TopKValues
from fluoroscope._proto.v1 import inference_pb2, tensor_pb2
from fluoroscope.assemble import Assembler
from fluoroscope.cache import ActivationCache
from fluoroscope.names import hook_name
from fluoroscope.ragged import stack
from fluoroscope.results import Provenance


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("blocks.5.hook_resid_pre", "blocks.5.hook_resid_pre"),
        (("resid_pre", 5), "blocks.5.hook_resid_pre"),
        (("hook_resid_pre", 5), "blocks.5.hook_resid_pre"),
        (("pattern", -1), "blocks.29.attn.hook_pattern"),
        (("attn", 3), "blocks.3.attn.hook_pattern"),
        (("attn_out", 3), "blocks.3.hook_attn_out"),
        (("q", 0, "attn"), "blocks.0.attn.hook_q"),
        (("rot_k", 0), "blocks.0.attn.hook_rot_k"),
        (("post", 4), "blocks.4.mlp.hook_post"),
        (("pre_linear", 4), "blocks.4.mlp.hook_pre_linear"),
        (("mlp_out", 4), "blocks.4.hook_mlp_out"),
        (("scale", 2, "ln1"), "blocks.2.ln1.hook_scale"),
        (("normalized", np.int64(2), "ln2"), "blocks.2.ln2.hook_normalized"),
        ("scale", "ln_final.hook_scale"),
        ("embed", "hook_embed"),
        (("embed",), "hook_embed"),
    ],
)
def test_short_names_mean_what_they_mean_in_transformer_lens(key, name):
    assert hook_name(key, 30) == name


def test_short_names_agree_with_transformer_lens_itself():
    utils = pytest.importorskip("transformer_lens.utils")
    sites = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores", "pre",
             "post"]
    for site in sites:
        assert hook_name((site, 7)) == utils.get_act_name(site, 7)
    for part in ("ln1", "ln2"):
        assert hook_name(("scale", 7, part)) == utils.get_act_name("scale", 7, part)
    assert hook_name("embed") == utils.get_act_name("embed")
    assert hook_name("scale") == utils.get_act_name("scale")


@pytest.mark.parametrize(("key", "why"), [(("resid_pre", -31), "-31"), (("scale", 2), "ln1 or ln2"), (("z", 2, "neck"), "'neck'"), (7, "7"), ((), "()")])
def test_a_key_that_is_no_name_says_why(key, why):
    with pytest.raises(KeyError) as caught:
        hook_name(key, 30)
    assert why in str(caught.value)


def rows(*shapes, dtype=np.float32):
    return [np.arange(np.prod(shape), dtype=dtype).reshape(shape) for shape in shapes]


def test_ragged_gives_rows_and_pads_only_on_request():
    ragged = stack(rows((2, 3), (4, 3)))
    assert isinstance(ragged, Ragged)
    assert len(ragged) == 2 and ragged.shapes == [(2, 3), (4, 3)]
    np.testing.assert_array_equal(ragged[1], np.arange(12).reshape(4, 3))
    assert isinstance(ragged[:1], Ragged)
    padded = ragged.padded()
    assert padded.shape == (2, 4, 3)
    assert np.isnan(padded[0, 2:]).all() and not np.isnan(padded[1]).any()
    left = ragged.padded(-1, side="left")
    np.testing.assert_array_equal(left[0], [[-1] * 3, [-1] * 3, [0, 1, 2], [3, 4, 5]])
    assert repr(ragged) == "Ragged(2 rows, float32, [2|4, 3])"


def test_ragged_pads_both_axes_of_patterns():
    padded = Ragged(rows((1, 2, 2), (1, 3, 3))).padded(0)
    np.testing.assert_array_equal(padded[0, 0], [[0, 1, 0], [2, 3, 0], [0, 0, 0]])


def test_ragged_never_turns_into_an_array_by_itself():
    ragged = Ragged(rows((2,), (3,)))
    with pytest.raises(TypeError, match="padded"):
        np.asarray(ragged)
    with pytest.raises(TypeError, match="ragged"):
        ragged[0, 1]
    assert ragged.map(lambda row: row * 2)[1].tolist() == [0, 2, 4]
    assert Ragged(rows((2,), (3,), dtype=np.int64)).padded().tolist() == [[0, 1, -1], [0, 1, 2]]


@pytest.mark.parametrize("bad", [[], [np.zeros(2), np.zeros((2, 2))], [np.zeros(2, np.float32), np.zeros(2)]])
def test_a_ragged_is_of_one_rank_and_dtype(bad):
    with pytest.raises(ValueError):
        Ragged(bad)


def header(row, name="x", dtype=tensor_pb2.DTYPE_F32, **fields):
    return tensor_pb2.TensorHeader(name=name, row=row, dtype=dtype, **fields)


def test_rows_of_equal_shape_land_in_one_batch_in_any_order():
    assembler = Assembler(3)
    for row in (2, 0, 1):
        assembler.allocate(header(row, positions=[row]), np.dtype("<f4"), (2,))[:] = row
    value = assembler.value("x")
    assert value.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert value.base is None  # the memory the bytes went into, not a copy
    assert [list(header.positions) for header in assembler.entry("x").headers] == [[0], [1], [2]]


def test_rows_of_unequal_shape_become_a_ragged():
    assembler = Assembler(3)
    for row, size in ((1, 4), (0, 2), (2, 4)):
        assembler.allocate(header(row), np.dtype("<f4"), (size,))[:] = row
    value = assembler.value("x")
    assert [row.tolist() for row in value] == [[0, 0], [1, 1, 1, 1], [2, 2, 2, 2]]


def test_top_k_is_a_pair():
    assembler = Assembler(1)
    assembler.allocate(header(0, part="values"), np.dtype("<f4"), (1, 2))[:] = [[5, 4]]
    assembler.allocate(header(0, part="indices", dtype=tensor_pb2.DTYPE_I64), np.dtype("<i8"), (1, 2))[:] = [[7, 1]]
    value = assembler.value("x", single=True)
    assert isinstance(value, TopKValues)
    assert (value.values.tolist(), value.indices.tolist()) == ([[5, 4]], [[7, 1]])
    assert assembler.names() == ["x"]


def test_a_row_that_comes_twice_or_unasked_is_refused():
    assembler = Assembler(1)
    assembler.allocate(header(0), np.dtype("<f4"), (2,))
    for row in (0, 1):
        with pytest.raises(DataLossError):
            assembler.allocate(header(row), np.dtype("<f4"), (2,))


def test_bf16_becomes_float32_or_ml_dtypes():
    for choice in ("float32", "ml_dtypes"):
        if choice == "ml_dtypes":
            pytest.importorskip("ml_dtypes")
        assembler = Assembler(1, choice)
        assembler.allocate(header(0, dtype=tensor_pb2.DTYPE_BF16), np.dtype("<u2"), (2,))[:] = [0x3F80, 0xC020]
        value = assembler.value("x")
        assert value.dtype.name == {"float32": "float32", "ml_dtypes": "bfloat16"}[choice]
        assert value.astype(np.float64).tolist() == [[1.0, -2.5]]
    with pytest.raises(ValueError, match="bfloat16"):
        Assembler(1, "float64")


def test_a_cache_prints_what_it_has_and_says_what_it_lacks():
    assembler = Assembler(1)
    for layer in (0, 1, 2, 5):
        assembler.allocate(header(0, name=f"blocks.{layer}.hook_resid_pre"), np.dtype("<f4"), (14, 8))[:] = layer
    provenance = Provenance(*["m"] * 10, False, 2)
    cache = ActivationCache({n: assembler.entry(n) for n in assembler.names()}, [inference_pb2.RowInfo(token_ids=[7, 8], tokens=["a", "b"])], provenance, 6)
    assert cache["resid_pre", -1].max() == 5 and ("resid_pre", 2) in cache and ("resid_pre", 3) not in cache
    assert cache.tokens.tolist() == [[7, 8]] and cache.str_tokens == [["a", "b"]] and cache.bos_added == (False,)
    assert list(cache) == [f"blocks.{layer}.hook_resid_pre" for layer in (0, 1, 2, 5)]
    assert repr(cache).splitlines() == ["ActivationCache of m: 4 tensors, 1.8 KiB", "  blocks.{0..2,5}.hook_resid_pre  float32 [1, 14, 8]"]
    with pytest.raises(KeyError, match=r"blocks.3.hook_resid_pre was not captured; this cache has blocks.\{0..2,5\}.hook_resid_pre"):
        cache["resid_pre", 3]
