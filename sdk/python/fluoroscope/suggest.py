"""What an error says of a name that is not known: which there are, and which was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 12  # a longer list is not read


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known name that is most like `word`; None when none is."""
    names = list(known)
    if not isinstance(word, str) or not word:
        return None
    if found := difflib.get_close_matches(word.lower(), [name.lower() for name in names], 1, 0.7):
        return next(name for name in names if name.lower() == found[0])
    begun = [name for name in names if len(word) > 2 and name.startswith(word)]  # "pos" for "position"
    return begun[0] if begun else None


def meant(word: object, known: Iterable[str]) -> str:
    """The end of a message: "; did you mean 'position'?", or nothing."""
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"


def unknown(what: str, word: object, known: Iterable[str]) -> str:
    """The whole message: "over: 'pos' is not one of 'layer', 'position'; did you mean 'position'?"."""
    names = list(known)
    return f"{what}: {word!r} is not one of {', '.join(map(repr, names))}{meant(word, names)}"


def missing(told: str, word: str, known: Iterable[str], there: str) -> str:
    """`told` (what `word` is not), then the nearest known name, or `there` (what there is) when none is near."""
    near = nearest(word, known)
    return f"{told}; " + (there if near is None else f"did you mean {near!r}?")


def listed(names: Iterable[str]) -> str:
    """Names one after the other, as many as are read."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f", ... ({len(every)} in all)" if len(every) > _SHOWN else "")
