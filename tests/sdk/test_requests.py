"""Requests: what a user says in Python is what the protocol's message says."""

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope._proto.v1 import plan_pb2
from fluoroscope.requests import CaptureChoice, build
from fluoroscope.selections import as_prompts, positions_message, resolve
from google.protobuf import text_format

CLEAN, CORRUPT = "John gave the bag to", "Mary gave the bag to"


def text(message) -> str:
    return text_format.MessageToString(message, as_one_line=True)


@pytest.mark.parametrize(
    ("given", "rows", "single"),
    [
        ("a b", ["a b"], True),
        ([1, 2], [[1, 2]], True),
        (np.array([1, 2]), [[1, 2]], True),
        ((np.int64(1), 2), [[1, 2]], True),
        (["a", [1, 2], np.array([3])], ["a", [1, 2], [3]], False),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]], False),
        (["a"], ["a"], False),
    ],
)
def test_prompts(given, rows, single):
    assert as_prompts(given) == (rows, single)


@pytest.mark.parametrize("bad", [[], [[]], 3, None, [1.5], ["a", 3], [[["a"]]], [["a", "b"]], {1.5: 2}])
def test_what_is_no_prompt_is_refused(bad):
    with pytest.raises(ValueError, match="prompt"):
        as_prompts(bad)


@pytest.mark.parametrize(
    ("given", "message", "of_5"),
    [
        (3, "items { index: 3 }", [3]),
        (-1, "items { index: -1 }", [4]),
        ("all", "items { all: true }", [0, 1, 2, 3, 4]),
        ("last", "items { last: true }", [4]),
        (slice(1, -1), "items { range { start: 1 end: -1 } }", [1, 2, 3]),
        (slice(None), "items { range { } }", [0, 1, 2, 3, 4]),
        (range(0, 4, 2), "items { index: 0 } items { index: 2 }", [0, 2]),
        ([4, 0, slice(0, 2)], "items { index: 4 } items { index: 0 } items { range { start: 0 end: 2 } }", [0, 1, 4]),
        (np.array([2, 3]), "items { index: 2 } items { index: 3 }", [2, 3]),
        (fs.occurrences(" John"), 'items { occurrences_of { text: " John" } }', None),
        (fs.occurrences(7), "items { occurrences_of { id: 7 } }", None),
        (5, "items { index: 5 }", None),
    ],
)
def test_positions(given, message, of_5):
    assert " ".join(text(positions_message(given)).split()) == message
    assert resolve(given, 5) == of_5


@pytest.mark.parametrize("bad", [[], "first", slice(0, 4, 2), 1.5, [None], True])
def test_what_is_no_position_is_refused(bad):
    with pytest.raises(ValueError, match="position"):
        positions_message(bad)


def test_bos_is_about_texts():
    plan = build("m", [CLEAN, [1, 2]], bos="always")
    assert plan.request.prompts[0].bos == plan_pb2.BOS_ALWAYS
    assert not plan.request.prompts[1].HasField("bos")
    assert build("m", CLEAN, bos=False).request.prompts[0].bos == plan_pb2.BOS_NEVER
    assert not build("m", CLEAN).request.prompts[0].HasField("bos")
    with pytest.raises(ValueError, match="token ids run exactly as given"):
        build("m", [1, 2], bos="always")
    with pytest.raises(ValueError, match="'sometimes'"):
        build("m", CLEAN, bos="sometimes")


def test_a_patch_is_a_further_row_and_an_intervention():
    patch = fs.patch(("resid_pre", -1), source=CLEAN, positions=[0], heads=2)
    plan = build("m", CORRUPT, interventions=[patch], metrics=[fs.metrics.logit_diff(" Mary", 7)], logits="last", layers=30)
    assert [prompt.text for prompt in plan.request.prompts] == [CORRUPT, CLEAN]
    assert plan.rows == 1
    expected = 'select { sites: "blocks.29.hook_resid_pre" positions { items { index: 0 } } heads: 2 rows: 0 } copy { row: 1 }'
    assert " ".join(text(plan.request.interventions[0]).split()) == expected
    expected = 'name: "logit_diff" rows: 0 logit_difference { right { text: " Mary" } wrong { id: 7 } }'
    assert " ".join(text(plan.request.metrics[0]).split()) == expected
    assert list(plan.request.logits.rows) == [0]


def test_identical_sources_share_one_row_and_only_the_users_rows_are_read():
    patches = [fs.patch("blocks.1.hook_resid_pre", source=CLEAN), fs.patch("blocks.2.hook_resid_pre", source=CLEAN), fs.patch("blocks.3.hook_z", source=[1, 2])]
    plan = build("m", [CORRUPT, "x"], interventions=patches, capture=CaptureChoice(["*"]), logits="all")
    assert [prompt.text or list(prompt.tokens.ids) for prompt in plan.request.prompts] == [CORRUPT, "x", CLEAN, [1, 2]]
    assert [intervention.copy.row for intervention in plan.request.interventions] == [2, 2, 3]
    assert [list(intervention.select.rows) for intervention in plan.request.interventions] == [[0, 1]] * 3
    assert list(plan.request.captures[0].select.rows) == list(plan.request.logits.rows) == [0, 1]


def test_a_source_that_equals_a_prompt_still_gets_its_own_row():
    """Row 0 is edited, so its values are not those of an unedited run."""
    plan = build("m", CLEAN, interventions=[fs.patch("blocks.1.hook_resid_pre", source=CLEAN)])
    assert plan.request.interventions[0].copy.row == 1


def test_sources_positions_and_answers_per_prompt():
    patch = fs.patch("blocks.1.hook_resid_pre", source=["c0", "c1", "c2"], positions=[[0], [], [2, 3]])
    diff = fs.metrics.logit_diff([" a", " b", " c"], [[" d", " e"], " f", 9])
    plan = build("m", ["x0", "x1", "x2"], interventions=[patch], metrics=[diff])
    assert [prompt.text for prompt in plan.request.prompts] == ["x0", "x1", "x2", "c0", "c2"]
    assert [(list(i.select.rows), i.copy.row) for i in plan.request.interventions] == [([0], 3), ([2], 4)]
    assert [(m.name, list(m.rows)) for m in plan.request.metrics] == [("logit_diff/0", [0]), ("logit_diff/1", [1]), ("logit_diff/2", [2])]
    assert [ref.text for ref in plan.request.metrics[0].logit_difference.wrong] == [" d", " e"]
    assert plan.request.metrics[2].logit_difference.wrong[0].id == 9


def test_a_flat_list_of_answers_is_a_set_unless_said_otherwise():
    together = build("m", ["x", "y"], metrics=[fs.metrics.logit_diff([" a", " b"], " c")]).request.metrics
    assert [len(metric.logit_difference.right) for metric in together] == [2]
    apart = build("m", ["x", "y"], metrics=[fs.metrics.logit_diff([" a", " b"], [" c", " d"], per_prompt=True)]).request.metrics
    assert [metric.logit_difference.right[0].text for metric in apart] == [" a", " b"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: fs.metrics.logit_diff([[" a"], [" b"]], " c"), "both lists"),
        (lambda: fs.metrics.logit_diff([[" a"], [" b"]], [" c"]), "2 prompts and `wrong` for 1"),
        (lambda: build("m", "x", metrics=[fs.metrics.logit_diff([[" a"], [" b"]], [[" c"], [" d"]])]), "answers for 2 prompts, but 1"),
        (lambda: build("m", "x", metrics=[fs.metrics.logit_diff([], " c")]), "at least one token"),
        (lambda: build("m", "x", metrics=[fs.metrics.logit_diff(1, 2), fs.metrics.logit_diff(3, 4)]), "two metrics are called"),
        (lambda: build("m", "x", metrics=[fs.metrics.logit_diff(1.5, 2)]), "1.5"),
        (lambda: build("m", "x", metrics=["logit_diff"]), "is not a metric"),
        (lambda: build("m", "x", interventions=["patch"]), "is not an intervention"),
        (lambda: build("m", ["x", "y"], interventions=[fs.patch("s", source=["a", "b", "c"])]), "3 sources for 2 prompts"),
        (lambda: build("m", ["x", "y"], interventions=[fs.patch("s", source="a", positions=[[1]])]), "1 lists for 2 prompts"),
        (lambda: build("m", "x", interventions=[fs.patch("s", source="a", rows=1)]), "there are 1 prompts"),
        (lambda: build("m", "x", capture=CaptureChoice(["*"], reduction="first")), "'first'"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_sent(make, why):
    with pytest.raises(ValueError) as caught:
        make()
    assert why in str(caught.value)


def test_logits_and_reductions():
    request = build("m", "x", logits=fs.Logits(positions=[1, -1], tokens=[" a", 5])).request
    assert [ref.text or ref.id for ref in request.logits.tokens] == [" a", 5]
    assert len(request.logits.positions.items) == 2
    assert not build("m", "x", logits=None).request.HasField("logits")
    directions = np.arange(6, dtype=np.float64).reshape(2, 3)
    reduction = build("m", "x", capture=CaptureChoice(["*"], reduction=fs.Dot(directions))).request.captures[0].reduction
    assert list(reduction.dot.directions.shape) == [2, 3]
    np.testing.assert_array_equal(np.frombuffer(reduction.dot.directions.data, "<f4").reshape(2, 3), directions)
    assert build("m", "x", capture=CaptureChoice(["*"], reduction=fs.TopK(3))).request.captures[0].reduction.top_k.k == 3
    assert build("m", "x", capture=CaptureChoice(["*"], reduction="last")).request.captures[0].reduction.last


@pytest.mark.parametrize(
    ("right", "wrong", "options", "message"),
    [
        (" Mary", " Mary", {}, "^`right` and `wrong` are the same tokens, so the difference is always 0$"),
        ([" Mary", " John"], [" John", " Mary"], {}, "the same tokens.*; for an answer of its own per prompt give per_prompt=True"),
        ([5, 7], [6, 7], {"per_prompt": True}, "^`right` and `wrong` of prompt 1 are the same tokens, so the difference is always 0$"),
    ],
)
def test_a_difference_that_is_always_zero_is_refused(right, wrong, options, message):
    with pytest.raises(ValueError, match=message):
        fs.metrics.logit_diff(right, wrong, **options)


def test_the_same_tokens_for_different_prompts_are_a_difference():
    metric = fs.metrics.logit_diff([" Mary", " John"], [" John", " Mary"], per_prompt=True)
    assert metric.per_prompt and len(metric.parts) == 2
    assert fs.metrics.logit_diff([" a", " b", " c"], [" b", " a"]).parts[0]["logit_difference"].right[2].text == " c"
