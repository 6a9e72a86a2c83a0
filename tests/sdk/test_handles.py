"""Activations that stay on the server, as a researcher uses them, on SmolLM2."""

import asyncio

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope._proto.v1 import handle_pb2
from fluoroscope.requests import build
from google.protobuf import text_format

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
SITE = "blocks.12.hook_resid_pre"
DIFF = fs.metrics.logit_diff(" Mary", " John")


@pytest.fixture(autouse=True)
def nothing_is_left(client):
    yield
    assert client.handles() == []


def test_kept_and_patched(client, model):
    where = model.differing_positions(CLEAN, CORRUPT)
    expected = model.run_with_hooks(CORRUPT, [fs.patch(SITE, source=CLEAN, positions=where)], metrics=[DIFF], logits=None)
    with model.keep(CLEAN, SITE, ttl=60) as handle:
        assert isinstance(handle, fs.Handle) and handle.ttl == 60
        assert (handle.site, handle.layer, handle.dtype, handle.shape, handle.model) == (SITE, 12, "f32", (14, 576), model.name)
        result = model.run_with_hooks(CORRUPT, [fs.patch(SITE, source=handle, positions=where)], metrics=[DIFF], logits=None)
        assert abs(result.metrics[DIFF][0] - expected.metrics[DIFF][0]) < 1e-4
        assert result.warnings == ()
        handle.renew(30)
        assert handle.ttl == 30
        assert [one.id for one in client.handles()] == [handle.id]
        assert repr(handle).startswith(f"Handle({SITE} of {model.name}, f32 [14, 576], 31.5 KiB, ")
    with pytest.raises(fs.NotFoundError, match="was deleted"):
        handle.numpy()


def test_several_are_a_dict(model):
    with model.keep(CLEAN, ["blocks.3.hook_resid_pre", "blocks.4.attn.hook_z"], positions=[9, -1]) as handles:
        assert isinstance(handles, fs.Handles) and list(handles) == ["blocks.3.hook_resid_pre", "blocks.4.attn.hook_z"]
        assert handles["z", 4].positions == (9, 13) and handles["z", 4].shape == (2, 9, 64)
        assert "resid_pre" not in handles and ("resid_pre", 3) in handles
        with pytest.raises(KeyError, match=r"blocks\.5\.hook_resid_pre was not kept; there are blocks\.3"):
            handles["resid_pre", 5]
        handles["z", 4].delete()  # and leaving `with` does not mind
        assert len(handles.all()) == 2 and repr(handles["z", 4]).endswith("deleted)")
        assert repr(handles).splitlines() == [
            "Handles of smollm2-135m: 2 tensors, 9.0 KiB", "  blocks.3.hook_resid_pre  f32 [2, 576]", "  blocks.4.attn.hook_z     f32 [2, 9, 64], deleted",
        ]  # fmt: skip
    with model.keep([CLEAN, CORRUPT], ("resid_pre", 3)) as handles:
        clean, corrupt = handles["resid_pre", 3]
        assert (clean.row, corrupt.row) == (0, 1)
        assert repr(handles) == "Handles of smollm2-135m: 2 tensors of 2 prompts, 63.0 KiB\n  blocks.3.hook_resid_pre  f32 [14, 576]"


def test_many_are_listed_briefly_and_in_order(client, model):
    with model.keep(CLEAN, None, positions=-1) as handles:
        assert len(handles.all()) > 100 and len(repr(handles)) < 3000 and "blocks.{0..29}.hook_resid_pre" in repr(handles)
    with model.keep([CLEAN, CORRUPT], [("resid_pre", 10), ("resid_pre", 2), "hook_embed", ("resid_pre", 0)]):
        listed = [(handle.site, handle.row) for handle in client.handles()]
    sites = ["hook_embed", *(f"blocks.{layer}.hook_resid_pre" for layer in (0, 2, 10))]
    assert listed == [(site, row) for site in sites for row in (0, 1)]


def test_uploaded(model):
    value = np.random.default_rng(0).normal(size=(1, 576))
    steering = fs.at(SITE, positions=[-1])
    with model.put(("resid_pre", 12), value, tokens=[5]) as handle:
        assert handle.uploaded and handle.token_ids == (5,)
        np.testing.assert_array_equal(handle.numpy(), value.astype(np.float32))
        runs = [model.run_with_hooks(CLEAN, [edit]).logits for edit in (fs.add(steering, value, 4), fs.add(steering, handle, 4))]
        np.testing.assert_array_equal(*runs)


def test_errors_of_with_are_not_hidden(client, model):
    with pytest.raises(ZeroDivisionError), model.keep(CLEAN, SITE):
        1 / 0  # noqa: B018
    assert client.handles() == []


def test_mistakes(model):
    with pytest.raises(ValueError, match="dtype is 'float32'; 'f32'"):
        model.put(SITE, np.zeros((1, 576)), dtype="float32")
    with pytest.raises(ValueError, match="names_filter is empty"):
        model.keep(CLEAN, ())
    with pytest.raises(ValueError, match="either reference prompts, a value or a handle"):
        fs.mean(SITE, CLEAN, value=0)
    with pytest.raises(fs.InvalidArgumentError, match=r"NaN or an infinity at element 577, \[1, 1\]"):
        model.put(SITE, np.where(np.arange(1152).reshape(2, 576) == 577, np.nan, 0))
    with pytest.raises(fs.InvalidArgumentError, match="ttl_seconds is 86401; it must be from 1 to 86400"):
        model.keep(CLEAN, SITE, ttl=86401)


def test_what_goes_over_the_wire():
    handle = fs.Handle(None, handle_pb2.Handle(id="h", site="s.x", model="m"))
    made = [fs.patch("s.x", source=handle, positions=[1], source_positions=[2]), fs.set("s.x", handle), fs.add("s.x", handle, 2), fs.mean("s.x", source=handle)]
    plan = build("m", "x", interventions=made)
    shown = [" ".join(text_format.MessageToString(edit, as_one_line=True).split()).partition("rows: 0 } ")[2] for edit in plan.request.interventions]
    assert shown == [
        'copy { positions { items { index: 2 } } handle: "h" }',
        'set { from_handle { handle: "h" } }',
        'add { scale: 2.0 from_handle { handle: "h" } }',
        'mean { of_handle { handle: "h" } }',
    ]
    assert len(plan.request.prompts) == 1, "a handle needs no row"


def test_asyncio(client, model):
    async def ask():
        theirs = fs.AsyncClient(client)
        amodel = await theirs.model(model.name)
        async with await amodel.keep(CLEAN, SITE) as handle, await amodel.put(SITE, np.ones((1, 576))) as ones:
            assert isinstance(handle, fs.AsyncHandle)
            patched = await amodel.run_with_hooks(CORRUPT, [fs.patch(SITE, source=handle), fs.add(SITE, ones)])
            values = await handle.numpy(positions=[3])
            await handle.renew(50)
            listed = {one.handle.id for one in await theirs.handles()}
            assert listed == {handle.handle.id, ones.handle.id}
            swept = await amodel.sweep(None, CORRUPT, over="position", metric=DIFF, layers=handle.handle.layer, source=handle)
        async with await amodel.keep(CLEAN, [SITE]) as handles:
            assert isinstance(handles, fs.AsyncHandles) and len(handles) == 1
            again = await handles[SITE].numpy(positions=[3])
        return patched, swept, values, again

    patched, swept, values, again = asyncio.run(ask())
    with model.keep(CLEAN, SITE) as handle, model.put(SITE, np.ones((1, 576))) as ones:
        expected = model.run_with_hooks(CORRUPT, [fs.patch(SITE, source=handle), fs.add(SITE, ones)])
        np.testing.assert_array_equal(patched.logits, expected.logits)
        expected = model.sweep(CLEAN, CORRUPT, over="position", metric=DIFF, layers=12)
        np.testing.assert_allclose(swept.values, expected.values, atol=5e-4)
        assert np.isnan(swept.source).all()
        np.testing.assert_array_equal(values, handle.numpy(positions=[3]))
        np.testing.assert_array_equal(values, again)
