"""Keyword arguments that several methods take: named and typed once, in a TypedDict, with their defaults beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

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


def check(method: str, options: Mapping[str, object], known: Collection[str]) -> None:
    """TypeError, as Python's own, for an option that is not known."""
    unknown = options.keys() - known
    if unknown:
        raise TypeError(f"{method}() does not take {', '.join(sorted(unknown))}")
