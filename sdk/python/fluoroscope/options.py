"""Keyword arguments that several methods take: named and typed once, in a TypedDict, with their defaults beside it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

from fluoroscope.hints import KEYWORDS
from fluoroscope.suggest import nearest

F = TypeVar("F", bound=Callable[..., Any])


def shows(options: type, defaults: Mapping[str, Any]) -> Callable[[F], F]:
    """Lets help() and completion see the names behind a method's `**options: Unpack[options]`; type checkers see them anyhow."""

    def decorate(method: F) -> F:
        signature = inspect.signature(method)
        named = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        types = {name: getattr(given, "__forward_arg__", given) for name, given in options.__annotations__.items()}
        more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=types[name]) for name in types]
        method.__signature__ = signature.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        return method

    return decorate


def strict(function: F) -> F:
    """A function whose error for an argument that it does not have says what was meant. (Python's own names only the wrong one.)"""
    known = _named(function)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        _refuse(function.__name__, given.keys() - set(known), known)
        return function(*args, **given)

    return cast(F, call)


def check(method: Callable[..., Any], options: Mapping[str, object], known: Collection[str]) -> None:
    """TypeError, as Python's own, for an option that is not known; it also says which argument of the method was meant."""
    _refuse(method.__name__, options.keys() - set(known), [*dict.fromkeys([*_named(method), *known])])


def _named(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in ("self", "model")]


def _refuse(method: str, unknown: Collection[str], known: Sequence[str]) -> None:
    if not unknown:
        return
    why = []
    for name in sorted(unknown):
        near = nearest(name, known)
        if name in KEYWORDS:
            why.append(KEYWORDS[name])
        elif near is not None:
            why.append(f"did you mean {near}?")
    told = f"{method}() does not take {', '.join(sorted(unknown))}" + "".join(f"; {reason}" for reason in why)
    raise TypeError(f"{told}{'' if told.endswith('?') else '.'} It takes {', '.join(known)}")
