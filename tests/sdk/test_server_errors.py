"""What the real server says of mistakes, as a user of the package reads it."""

from __future__ import annotations

import fluoroscope as fs
import pytest

PROMPT = "When John and Mary went to the shops, John gave the bag to"


def test_a_token_that_does_not_occur_is_named_by_its_text(model):
    with pytest.raises(fs.InvalidArgumentError, match=r"token \d+ \(' Bob'\) does not occur in the row"):
        model.run_with_cache(PROMPT, "blocks.5.hook_resid_pre", positions=fs.occurrences(" Bob"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blocks.5.attn.hook_patern", "did you mean 'blocks.5.attn.hook_pattern'?"),
        ("blocks.5.resid_pre", "did you mean 'blocks.5.hook_resid_pre'"),
    ],
)
def test_misspelt_hooks(model, name, said):
    with pytest.raises(fs.NotFoundError) as error:
        model.run_with_cache(PROMPT, [name])
    assert said in str(error.value) and len(str(error.value)) < 400


def test_no_enum_names(model):
    diff = fs.metrics.logit_diff(" Mary", " John")
    with pytest.raises(fs.InvalidArgumentError, match="grid.kind: attributions estimate the kinds patch and zero"):
        model.attribute(PROMPT, PROMPT, "z", ("layer", "head"), diff, kind="mean")
