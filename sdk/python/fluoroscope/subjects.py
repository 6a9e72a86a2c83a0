"""Which tokens of a prompt hold some words of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from fluoroscope.model import Model

_PREFIXES_AT_ONCE = 64


def positions_of(model: Model, ids: list[int], words: str) -> list[int]:
    """The positions of the tokens that hold `words`, which must stand in the prompt as words of their own exactly once.

    Where they do not, as in a language without spaces, they must begin and end where tokens do.

    Raises:
      ValueError: they are not there, only inside other words, or more than once; the message names the positions.
    """
    tokens = cast("list[str]", model.to_str_tokens(ids))
    wanted = words.strip()
    text, spans = _spans(model, ids, tokens)
    found = [start for start in range(len(text)) if wanted and text.startswith(wanted, start)]
    if not found:
        raise ValueError(f"subject: {words!r} is not in the prompt's tokens {tokens}; give the positions of its tokens instead")
    whole = [start for start in found if _is_word(text, start, start + len(wanted))]
    if not whole:
        # A token's own leading space is no part of a word.
        begins = {start + len(text[start:end]) - len(text[start:end].lstrip()) for start, end in spans} | {start for start, _ in spans}
        ends = {end for _, end in spans}
        whole = [start for start in found if start in begins and start + len(wanted) in ends]
    places = [_covering(spans, start, start + len(wanted)) for start in whole]
    if not places:
        inside = ", ".join(f"{[tokens[i] for i in place]} at {place}" for place in (_covering(spans, start, start + len(wanted)) for start in found))
        raise ValueError(f"subject: {words!r} stands only inside other words, {inside}; give the positions of the tokens that you mean")
    if len(places) > 1:
        raise ValueError(f"subject: {words!r} occurs at {', '.join(map(str, places))}; give the positions of the one that you mean")
    return places[0]


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether no word goes on beyond either end."""
    before, behind = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (behind.isalnum() and text[end - 1].isalnum())


def _covering(spans: list[tuple[int, int]], start: int, end: int) -> list[int]:
    return [i for i, (begins, ends) in enumerate(spans) if ends > start and begins < end]


def _spans(model: Model, ids: list[int], tokens: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """The prompt's text, and where in it each token's characters are; a token with a part of a character has the whole."""
    if "\ufffd" not in "".join(tokens):
        text, ends = "".join(tokens), [0]
        for token in tokens:
            ends.append(ends[-1] + len(token))
        return text, list(zip(ends, ends[1:], strict=False))
    # Some tokens are parts of characters, which have no text of their own: what do the first 1, 2, 3, ... tokens spell?
    prefixes = [ids[: i + 1] for i in range(len(ids))]
    texts: list[str] = []
    for at in range(0, len(prefixes), _PREFIXES_AT_ONCE):
        texts += cast("list[str]", model.detokenize(prefixes[at : at + _PREFIXES_AT_ONCE]))
    text, starts, ends = texts[-1], [0], []
    for prefix in texts:
        agreed = next((i for i, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b), min(len(prefix), len(text)))
        ends.append(agreed + (len(prefix) > agreed))  # behind it the beginning of a character
        starts.append(agreed)
    return text, list(zip(starts, ends, strict=False))
