"""The words that a causal trace corrupts: which tokens they are, or why not."""

from __future__ import annotations

import pytest
from fluoroscope.subjects import positions_of


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("The Space Needle is in the city of", "Space Needle", [1, 2, 3]),
        ("The Space Needle is in the city of", " Space Needle ", [1, 2, 3]),
        ("He is living on an island and", "is", [1]),  # not the "is" of "island", which comes last
        ("The capital of 日本 is", "日本", [3, 4, 5, 6]),  # four tokens, three of which are parts of the first character
        ("首都は東京です", "東京", [7, 8, 9, 10]),  # no spaces: tokens are the borders
    ],
)
def test_words_of_a_prompt(model, prompt, words, expected):
    ids = model.tokenize(prompt)
    assert positions_of(model, ids, words) == expected
    assert words.strip() in model.detokenize([ids[i] for i in expected])


@pytest.mark.parametrize(
    ("prompt", "words", "message"),
    [
        ("The Space Needle is in the city of", "pace Need", r"only inside other words, \[' Space', ' Need'\] at \[1, 2\]; give the positions"),
        ("is this what it is", "is", r"'is' occurs at \[0\], \[4\]; give the positions of the one"),
        ("The capital of 日本 is", "中国", "'中国' is not in the prompt's tokens"),
        ("The capital", " ", "' ' is not in the prompt's tokens"),
    ],
)
def test_words_that_do_not_say_which(model, prompt, words, message):
    with pytest.raises(ValueError, match=message):
        positions_of(model, model.tokenize(prompt), words)


def test_a_trace_takes_the_word_and_not_the_last_place(model):
    assert model.causal_trace("He is living on an island and", "is", seeds=1, layers=[1]).subject == (1,)
