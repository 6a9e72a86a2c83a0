"""A handle as a source gives the very bits that a row or a tensor as a source gives, and what is read back is what was kept or uploaded."""

from __future__ import annotations

import dataclasses

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope._proto.v1 import inference_pb2, plan_pb2

from .checkpoints import SPECS, make
from .compare import TINY, assert_close
from .reference import trace
from .serving import Server, capture
from .test_patch import CLEAN, CORRUPT, editable, patched

MODELS = ["gqa-tied-sharded", "two"]
SHORT = CLEAN[:7]


@pytest.fixture(scope="module")
def models(client):
    return {name: client.model(name) for name in MODELS}


@pytest.fixture(autouse=True)
def nothing_is_left(client):
    yield
    assert client.handles() == []


def same(a, b) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_patches_from_a_handle_at_every_site(server, models, weights, name):
    """Bit for bit the same as from a row, and so the reference's."""
    model, w = models[name], weights(name)
    clean = trace(w, CLEAN)
    for pattern in editable(server, name):
        site = pattern.replace("{l}", "1")
        for at in ([5], [3, 5, 10], None):
            # What a row computes at once may decide about the last bit of a number, so the run that keeps reads what the source row is read.
            with model.keep(CLEAN, site, positions=at) as handle:
                expected = model.run_with_hooks(CORRUPT, [fs.patch(site, source=CLEAN, positions=at)], logits="all").logits
                logits = model.run_with_hooks(CORRUPT, [fs.patch(site, source=handle, positions=at)], logits="all").logits
                assert same(logits, expected), (site, at)
        assert_close(logits[0], patched(w, site, clean, list(range(len(CORRUPT)))).logits, TINY, site)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_v"])
def test_heads_and_units(models, name, site):
    model = models[name]
    where = fs.at(site, heads=[1], positions=[4, 6], units=[0, 3])
    expected = model.run_with_hooks(CORRUPT, [fs.patch(where, source=CLEAN)], logits="all").logits
    with model.keep(CLEAN, site, positions=[4, 6]) as whole, model.keep(CLEAN, site, heads=[0, 1], positions=[4, 6]) as part:
        for handle in (whole, part):
            assert same(model.run_with_hooks(CORRUPT, [fs.patch(where, source=handle)], logits="all").logits, expected)


@pytest.mark.parametrize("name", MODELS)
def test_unequal_lengths_and_other_positions(models, name):
    model, site = models[name], "blocks.1.hook_resid_pre"
    with model.keep(SHORT, site) as handle:
        for positions, source_positions in (([5, 9], [0, -1]), ([8], "last"), ([4, 5, 6], slice(1, 4)), ([2], fs.occurrences(250))):
            options = {"positions": positions, "source_positions": source_positions}
            expected = model.run_with_hooks(CORRUPT, [fs.patch(site, source=SHORT, **options)], logits="all").logits
            assert same(model.run_with_hooks(CORRUPT, [fs.patch(site, source=handle, **options)], logits="all").logits, expected), options


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.attn.hook_attn_scores", "blocks.2.ln2.hook_scale"])
def test_means_of_a_handle(models, name, site):
    model = models[name]
    for positions in (None, [0, 3, 4], "last"):
        with model.keep(CLEAN, site, positions=positions if "scores" in site else None) as handle:
            expected = model.run_with_hooks(CORRUPT, [fs.mean(site, [CLEAN], positions=positions)], logits="all").logits
            assert same(model.run_with_hooks(CORRUPT, [fs.mean(site, source=handle, positions=positions)], logits="all").logits, expected), positions


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["blocks.1.hook_resid_mid", "blocks.1.attn.hook_q", "blocks.0.mlp.hook_post"])
def test_set_and_add_of_a_handle(models, name, site):
    model = models[name]
    value = np.random.default_rng(0).normal(size=model.run_with_cache(CLEAN, site)[1][site][0].shape).astype(np.float32)
    with model.put(site, value) as handle, model.put(site, value[4:5], positions=[4]) as one:
        for tensor, source, where in ((value, handle, site), (value[4:5], one, fs.at(site, positions=[2, 7])), (value[4:5], one, site)):
            for expected, edit in (
                (fs.set(where, tensor), fs.set(where, source)),
                (fs.add(where, tensor), fs.add(where, source)),
                (fs.add(where, tensor, scale=-1.7), fs.add(where, source, scale=-1.7)),
            ):
                both = [model.run_with_hooks(CORRUPT, [one_edit], logits="all").logits for one_edit in (expected, edit)]
                assert same(*both), edit


@pytest.mark.parametrize("name", MODELS)
def test_an_upload_is_what_a_capture_is(models, name):
    """What was captured and put there again patches as the row itself does; equal values make an equal plan."""
    model, site = models[name], "blocks.1.attn.hook_z"
    _, cache = model.run_with_cache(CLEAN, site)
    edit = [2, 5]
    with model.keep(CLEAN, site) as kept, model.put(site, cache[site][0], tokens=CLEAN) as put:
        assert same(kept.numpy(), cache[site][0]) and same(put.numpy(), cache[site][0])
        runs = [model.run_with_hooks(CORRUPT, [fs.patch(site, source=source, positions=edit)], logits="all") for source in (kept, put)]
        assert same(runs[0].logits, runs[1].logits)
        assert runs[0].provenance.plan_sha256 == runs[1].provenance.plan_sha256
        other = model.run_with_hooks(CORRUPT, [fs.patch(site, source=CLEAN, positions=edit)], logits="all")
        assert same(runs[0].logits, other.logits)
    with model.put(site, cache[site][0] + 1) as different:
        changed = model.run_with_hooks(CORRUPT, [fs.patch(site, source=different, positions=edit)], logits="all")
        assert changed.provenance.plan_sha256 != runs[0].provenance.plan_sha256


def test_kept_of_several_prompts_and_an_edited_run(models):
    model, site = models["two"], "blocks.1.hook_resid_post"
    edits = [fs.zero(fs.at("blocks.0.hook_mlp_out", positions=[1]))]
    result = model.run_with_hooks([CLEAN, SHORT], edits, names_filter=["blocks.*.hook_resid_post"], logits=None)
    with model.keep([CLEAN, SHORT], "blocks.*.hook_resid_post", interventions=edits) as handles:
        assert len(handles) == 3 and len(handles.all()) == 6
        for name in handles:
            for row, handle in enumerate(handles[name]):
                assert same(handle.numpy(), np.asarray(result.cache[name][row])), name
                assert (handle.row, handle.row_length) == (row, len([CLEAN, SHORT][row]))
                assert list(handle.token_ids) == [CLEAN, SHORT][row]
        assert handles["resid_post", 1][0].site == site
        assert handles.nbytes == sum(handle.nbytes for handle in handles.all()) == result.cache.nbytes


def test_kept_last_position(models):
    model, site = models["two"], "blocks.1.hook_resid_post"
    with model.keep(CLEAN, site, last=True) as handle:
        assert handle.positions == (10,) and handle.shape == (1, 48)
        assert same(handle.numpy(), model.run_with_cache(CLEAN, site)[1][site][0][-1:])


def test_two_edits_share_a_handle_that_ends_meanwhile(models):
    """Two requests' worth of edits of one handle in one request; deleting it afterwards changes nothing that has run."""
    model, site = models["two"], "blocks.1.hook_resid_pre"
    edits = lambda source: [fs.patch(site, source=source, positions=[5]), fs.patch(site, source=source, positions=[5, 7])]  # noqa: E731
    expected = model.run_with_hooks([CORRUPT, SHORT[::-1] + CORRUPT[:2]], edits(CLEAN), logits="all").logits
    handle = model.keep(CLEAN, site)
    logits = model.run_with_hooks([CORRUPT, SHORT[::-1] + CORRUPT[:2]], edits(handle), logits="all").logits
    handle.delete()
    with pytest.raises(fs.NotFoundError, match="was deleted"):
        model.run_with_hooks(CORRUPT, edits(handle))
    assert all(same(a, b) for a, b in zip(logits, expected, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_slices_are_numpys(models, name):
    model = models[name]
    for site in ("blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"):
        _, cache = model.run_with_cache(CLEAN, site)
        value, by_query = cache[site][0], "pattern" in site
        at = (lambda p: value[:, p]) if by_query else (lambda p: value[p])
        with model.keep(CLEAN, site) as handle:
            assert same(handle.numpy(), value)
            assert same(handle.numpy(positions=3), at([3]))
            assert same(handle.numpy(positions=[-1, 2]), at([10, 2]))
            assert same(handle.numpy(positions=slice(2, 9)), at(slice(2, 9)))
            assert same(handle.numpy(units=[1, 5]), value[..., [1, 5]])
            if "attn" in site:
                heads = value[[0, 3]] if by_query else value[:, [0, 3]]
                assert same(handle.numpy(heads=[0, 3]), heads)
                both = value[np.ix_([1, 3], [0, 7], [4, 2])] if by_query else value[np.ix_([0, 7], [1, 3], [4, 2])]
                assert same(handle.numpy(positions=[0, 7], heads=[1, 3], units=[4, 2]), both)
        with model.keep(CLEAN, site, positions=[2, 6, 9]) as handle:
            assert handle.positions == (2, 6, 9)
            _, part = model.run_with_cache(CLEAN, site, positions=[2, 6, 9], logits=None)
            assert same(handle.numpy(), part[site][0])
            assert same(handle.numpy(positions=[9, 6]), part[site][0][:, [2, 1]] if by_query else part[site][0][[2, 1]])
            with pytest.raises(fs.InvalidArgumentError, match=r"has the positions 2, 6, 9 of a sequence of 11 tokens, and position 3 is wanted"):
                handle.numpy(positions=[2, 3])


DTYPES = ["f32", "f16", "bf16", "f64", "i32", "i64", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_put_and_get_of_every_dtype(models, dtype):
    model, site = models["two"], "blocks.1.hook_resid_pre"
    numbers = np.random.default_rng(1).normal(size=(5, 48)) * 10.0 ** np.arange(-20, 28)
    numpy_dtype = {"f32": np.float32, "f16": np.float16, "bf16": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "bool": np.bool_}[dtype]
    if dtype in ("i32", "i64"):
        value = np.random.default_rng(2).integers(np.iinfo(numpy_dtype).min, np.iinfo(numpy_dtype).max, size=(5, 48), dtype=numpy_dtype)
    elif dtype == "f16":
        value = np.random.default_rng(2).normal(size=(5, 48)).astype(np.float16)
    else:
        value = numbers.astype(numpy_dtype)
    if dtype == "bf16":  # numbers that bf16 has
        value = (value.view(np.uint32) & 0xFFFF0000).view(np.float32)
    with model.put(site, value, dtype=dtype) as handle:
        assert handle.dtype == dtype and handle.uploaded
        assert same(handle.numpy(), value)
        assert same(handle.numpy(positions=[1, 4]), value[[1, 4]])
        if dtype != "f32":
            with pytest.raises(fs.InvalidArgumentError, match=f"handle {handle.id} is {dtype}, and {site} of two is f32"):
                model.run_with_hooks(CORRUPT, [fs.patch(site, source=handle, positions=[0])])


def test_more_than_one_chunk(models, monkeypatch):
    """Chunks that end in the middle of a number."""
    from fluoroscope import handles

    monkeypatch.setattr(handles, "_CHUNK", 1001)
    model, site = models["two"], "blocks.0.attn.hook_result"
    value = np.random.default_rng(3).normal(size=(64, 4, 48)).astype(np.float32)
    with model.put(site, value) as handle:
        assert same(handle.numpy(), value)


def test_bfloat16_is_rounded_to_even(models):
    from fluoroscope.handles import _as_dtype

    values = np.array([1.0, 1.00390625, 1.01171875, -1.00390625, 3.4e38, np.nan, 1e-40], np.float32)
    import torch

    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    bits = _as_dtype(values, "bf16")
    assert (bits == expected)[[0, 1, 2, 3, 4, 6]].all() and bits[5] & 0x7F80 == 0x7F80 and bits[5] & 0x7F != 0


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    paths = {f"{base}-bf16": make(f"{base}-bf16", dataclasses.replace(SPECS[base], dtype="bfloat16"), folder) for base in MODELS}
    running = Server(paths, tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.mark.parametrize("base", MODELS)
def test_half_precision(halves, base):
    """Sites in the model's dtype, norms in float32, and set and add through float32: all the same bits as from rows and tensors."""
    with fs.connect(halves.address) as client:
        model = client.model(f"{base}-bf16")
        for site in ("blocks.1.hook_resid_pre", "blocks.1.ln1.hook_normalized", "blocks.1.attn.hook_z"):
            _, cache = model.run_with_cache(CLEAN, site)
            with model.keep(CLEAN, site) as handle, model.put(site, cache[site][0]) as put:
                assert handle.dtype == put.dtype == ("f32" if "normalized" in site else "bf16")
                assert same(handle.numpy(), cache[site][0]) and same(put.numpy(), cache[site][0])
                for source in (handle, put):
                    pairs = [
                        (fs.patch(site, source=CLEAN), fs.patch(site, source=source)),
                        (fs.mean(site, [CLEAN]), fs.mean(site, source=source)),
                        (fs.set(site, cache[site][0]), fs.set(site, source)),
                        (fs.add(site, cache[site][0], scale=0.3), fs.add(site, source, scale=0.3)),
                    ]
                    for expected, edit in pairs:
                        both = [model.run_with_hooks(CORRUPT, [one], logits="all").logits for one in (expected, edit)]
                        assert same(*both), edit
        assert client.handles() == []


@pytest.mark.parametrize("name", MODELS)
def test_generation_reads_handles(models, name):
    model, site = models[name], "blocks.1.hook_resid_pre"
    vector = np.random.default_rng(4).normal(size=(1, 48)).astype(np.float32) * 3
    with model.keep(CLEAN, site) as handle, model.put(site, vector) as steering:
        for expected, edit in (
            (fs.patch(site, source=CLEAN, positions=[3, 5]), fs.patch(site, source=handle, positions=[3, 5])),
            (fs.add(fs.at(site, positions="generated"), vector), fs.add(fs.at(site, positions="generated"), steering)),
            (fs.mean(fs.at(site, positions="generated"), [CLEAN]), fs.mean(fs.at(site, positions="generated"), source=handle)),
        ):
            runs = [list(model.generate(CORRUPT, 6, interventions=[one], ignore_eos=True)) for one in (expected, edit)]
            assert [(t.id, t.logprob) for t in runs[0]] == [(t.id, t.logprob) for t in runs[1]], edit


def test_estimate_charges_what_is_kept(server):
    request = inference_pb2.ForwardRequest(model="two", prompts=[plan_pb2.Prompt(tokens=plan_pb2.TokenIds(ids=CLEAN))], captures=[capture("blocks.*.hook_resid_pre")])
    sent = server.estimate(request)
    request.captures[0].keep.ttl_seconds = 1
    kept = server.estimate(request)
    assert (sent.peak_bytes, sent.reply_bytes) == (kept.peak_bytes, 3 * 11 * 48 * 4)
    assert kept.reply_bytes == 0
    reply = server.forward("two", [CLEAN], captures=request.captures).reply  # its handles are nobody's and live for a second
    assert len(reply.handles) == 3 and reply.tensors == []
    assert 3 * 11 * 48 * 4 <= reply.summary.peak_bytes <= kept.peak_bytes
