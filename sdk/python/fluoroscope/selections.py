"""Which positions, tokens and prompts: Python's ways to say it, turned into the protocol's."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

import numpy as np

from fluoroscope._proto.v1 import plan_pb2, tensor_pb2
from fluoroscope.arrays import float32, plain
from fluoroscope.indices import as_ints, from_start, is_int, refuse_mask
from fluoroscope.names import HookKey, hook_name

if TYPE_CHECKING:
    from fluoroscope.hooks import HookTable


@dataclass(frozen=True, eq=False)
class Start:
    """A prompt that begins in the middle of the model, with activations of your own: wherever a prompt is expected, of runs and as a source.

    Attributes:
      at: "blocks.7.hook_resid_pre" (or ("resid_pre", 7)), or a hook_resid_mid.
      value: [positions, d_model], finite.
      tokens: ids that the positions stand for, one each, for positions by content, cross-entropy and labels. Default: none.
    """

    at: HookKey
    value: np.ndarray
    tokens: Sequence[int] = ()

    def message(self, layers: int | None) -> plan_pb2.Prompt:
        """As the protocol has it. `layers` is how many the model has, for negative ones in the hook's name."""
        start = plan_pb2.Activations(start_at=hook_name(self.at, layers), value=tensor_message(self.value), token_ids=self.tokens)
        return plan_pb2.Prompt(activations=start)


# One sequence: text, token ids that run exactly as given, or activations to start with.
Prompt = str | Sequence[int] | np.ndarray | Start
# A prompt on its way to the protocol.
Row = str | list[int] | Start
# One prompt or several; a 2-D integer array is one row per prompt.
Prompts = Prompt | Sequence[Prompt]
# A token by id, or by text that must be exactly one token (" Mary" is one, "Mary" another).
Token = str | SupportsIndex


@dataclass(frozen=True)
class Occurrences:
    """Every position that holds a token; a prompt without it is an error."""

    token: Token


def occurrences(token: Token) -> Occurrences:
    """Positions by content: `positions=fs.occurrences(" John")`."""
    return Occurrences(token)


# Positions of a row: an index (0 is the first token really run, -1 the last), a slice or range, "all", "last", fs.occurrences(token), or a list of
# these. What is read comes back in the order of a list of indices, each once; a list with anything else is a union, in ascending order. Where something is generated, "generated" are its tokens, "prompt" those of the prompt, "all" both; the rest
# speaks of the prompt. None leaves the choice to the parameter's default.
Position = SupportsIndex | slice | range | str | Occurrences
Positions = Position | Sequence[Position] | np.ndarray | None



@dataclass(frozen=True, eq=False)
class At:
    """See `at`."""

    site: HookKey
    positions: Positions | Sequence[Positions] = None
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    units: tuple[int, ...] = ()
    rows: tuple[int, ...] | None = None

    def positions_of(self, prompt: int, prompts: int) -> Positions:
        """The positions of one prompt, also where they were given prompt by prompt. An empty list means that it has none."""
        nested = per_prompt_positions(self.positions, prompts)
        return self.positions if nested is None else nested[prompt]  # type: ignore[return-value]

    def message(self, positions: Positions, rows: Sequence[int], layers: int | None, hooks: HookTable | None = None) -> plan_pb2.Selection:
        """As the protocol has it, for some rows. `layers` is how many the model has, for negative ones in the hook's name; `hooks` are its hook points, for
        negative heads and units."""
        site = hook_name(self.site, layers)
        heads, units = from_last(hooks, [site], self.heads, self.units)
        return plan_pb2.Selection(
            sites=[site], layers=self.layers, positions=positions_message(positions), heads=heads, units=units, rows=rows
        )

    def __repr__(self) -> str:
        parts = [f"{name}={list(value) if isinstance(value, tuple) else value!r}" for name in ("positions", "layers", "heads", "units", "rows")
                 if (value := getattr(self, name)) not in (None, ())]  # fmt: skip
        return f"at({', '.join([repr(self.site), *parts])})" if parts else repr(self.site)


# A hook point as a whole, or a part of it.
Where = HookKey | At


def at(
    site: HookKey,
    *,
    positions: Positions | Sequence[Positions] = None,
    layers: int | Sequence[int] = (),
    heads: int | Sequence[int] = (),
    units: int | Sequence[int] = (),
    rows: int | Sequence[int] | None = None,
) -> At:
    """A part of a hook point, for interventions: `fs.zero(fs.at("blocks.5.attn.hook_z", heads=[3], positions=[-1]))`.

    Args:
      site: "blocks.5.attn.hook_z", ("z", 5), or a glob such as "blocks.*.attn.hook_z".
      positions: default: every position; for patterns and scores these are queries. A list of lists gives each prompt its own; an empty one leaves the
        prompt alone.
      layers: narrows a glob; negative numbers count from the last.
      heads: for sites with a head axis; negative numbers count from the last. Default: all.
      units: indices of the site's last axis: neurons, dimensions, or keys of patterns and scores. Negative numbers count from the last, but for keys.
        Default: all.
      rows: which of the run's prompts. Default: all of them.
    """
    return At(
        site, positions, as_ints(layers, "layers"), as_ints(heads, "heads"), as_ints(units, "units"), None if rows is None else as_ints(rows, "rows")
    )


def as_at(where: Where) -> At:
    return where if isinstance(where, At) else At(where)


BOS = {
    "default": plan_pb2.BOS_DEFAULT,
    "always": plan_pb2.BOS_ALWAYS,
    "never": plan_pb2.BOS_NEVER,
    True: plan_pb2.BOS_ALWAYS,
    False: plan_pb2.BOS_NEVER,
}
Bos = str | bool | None


def as_prompts(prompts: Prompts) -> tuple[list[Row], bool]:
    """(the prompts as a list of texts, id lists and starts, whether it was a single prompt). ValueError for what is none of these."""
    if isinstance(prompts, str | Start):
        return [prompts], True
    given = plain(prompts)
    if isinstance(given, np.ndarray):
        _refuse_activations(given)
        given = given.tolist()
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"a prompt is text or a list of token ids, not {type(prompts).__name__}")
    items: list[Any] = list(given)
    if not items:
        raise ValueError("there is no prompt: give text, a list of token ids, or a list of prompts")
    if all(is_int(item) for item in items):
        return [[operator.index(item) for item in items]], True
    if is_int(items[0]):
        wrong = next(item for item in items if not is_int(item))
        raise ValueError(f"a prompt is text or a list of token ids, and {wrong!r} is no token id")
    rows: list[Row] = []
    for number, item in enumerate(items):
        if isinstance(item, list | tuple) and any(isinstance(part, str | Start | list | tuple | np.ndarray) and not is_int(part) for part in item):
            raise ValueError(f"prompt {number} is a list of prompts; one level of lists is enough")
        try:
            row, single = as_prompts(item)
        except ValueError as error:
            raise ValueError(f"prompt {number}: {re.sub(r'^prompt 0: ', '', str(error))}") from None  # once is enough
        if not single:
            raise ValueError(f"prompt {number} is a list of prompts; one level of lists is enough")
        rows += row
    return rows, False


def _refuse_activations(array: np.ndarray) -> None:
    if array.dtype.kind not in "iuOU":
        raise ValueError(
            f"a prompt is text or a list of token ids, not an array of {array.dtype} {list(array.shape)}; activations to begin with are fs.Start(at, value)"
        )


def prompt_messages(
    prompts: Sequence[Row], bos: Bos = None, parse_special_tokens: bool = False, layers: int | None = None
) -> list[plan_pb2.Prompt]:
    """Prompts as the protocol has them. `bos` is about texts: it leaves token ids among them alone, and is refused where there are only ids. `layers` is
    how many the model has, for negative ones in hook names."""
    if bos is not None and bos not in BOS:
        raise ValueError(f"bos is {bos!r}; None, 'default', 'always' (True) and 'never' (False) are allowed")
    if bos not in (None, "default") and not any(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("token ids run exactly as given, so bos cannot be chosen for them: put the BOS id in front yourself, or leave it out")
    return [
        plan_pb2.Prompt(text=prompt, bos=None if bos is None else BOS[bos], parse_special_tokens=parse_special_tokens)
        if isinstance(prompt, str)
        else prompt.message(layers)
        if isinstance(prompt, Start)
        else plan_pb2.Prompt(tokens=plan_pb2.TokenIds(ids=prompt))
        for prompt in prompts
    ]


def token_ref(token: Token) -> plan_pb2.TokenRef:
    """One token as the protocol has it."""
    if isinstance(token, str):
        return plan_pb2.TokenRef(text=token)
    if is_int(token):
        number = operator.index(token)
        if not 0 <= number < 2**32:
            raise ValueError(f"token id {number} is out of range; ids count from 0")
        return plan_pb2.TokenRef(id=number)
    refuse_mask(token, "tokens")
    raise ValueError(f"a token is an id or a text that is exactly one token, not {token!r}")


def token_refs(tokens: Token | Iterable[Token]) -> list[plan_pb2.TokenRef]:
    """One token or several."""
    if isinstance(tokens, str) or is_int(tokens) or not isinstance(tokens, Iterable):
        return [token_ref(cast(Token, tokens))]
    refuse_mask(tokens, "tokens")
    return [token_ref(token) for token in tokens]


def positions_message(positions: Positions) -> plan_pb2.Positions | None:
    """Positions as the protocol has them; None stays None ("the default")."""
    if positions is None:
        return None
    refuse_mask(positions, "positions")
    if isinstance(positions, str | range) or is_int(positions) or not isinstance(positions, Iterable):
        items: list[Any] = [positions]
    else:
        items = list(positions)
        if not items:
            raise ValueError("the list of positions is empty; leave `positions` out for the default")
    return plan_pb2.Positions(items=[message for item in items for message in _items(item)])


def resolve(positions: Positions, length: int) -> list[int] | None:
    """The absolute positions in a row of `length` tokens, ascending, as the server resolves them; None when that needs the tokens or an index is outside."""
    message = positions_message(positions)
    if message is None:
        return list(range(length))
    found: set[int] = set()
    for item in message.items:
        match item.WhichOneof("kind"):
            case "all":
                found.update(range(length))
            case "last":
                found.add(length - 1)
            case "index":
                found.add(item.index + length if item.index < 0 else item.index)
            case "range":
                bounds = item.range
                start = bounds.start if bounds.HasField("start") else None
                end = bounds.end if bounds.HasField("end") else None
                found.update(range(length)[start:end])
            case _:
                return None
    return sorted(found) if all(0 <= position < length for position in found) else None


def from_last(hooks: HookTable | None, sites: Sequence[str], heads: Sequence[int], units: Sequence[int] = ()) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(heads, units) with negative ones counted from the last that these hook points have."""
    found = []
    for what, numbers, axis in (("heads", heads, "head"), ("units", units, "last")):
        negative = any(number < 0 for number in numbers)
        size, of = hooks.size_of(sites, axis) if hooks is not None and negative else (None, "")
        found.append(from_start(numbers, what, size, of))
    return found[0], found[1]


def per_prompt_positions(positions: Positions | Sequence[Positions], prompts: int) -> list[Positions] | None:
    """The positions of each prompt when they were given per prompt (a list of lists), else None."""
    if not isinstance(positions, list | tuple) or not any(isinstance(item, list | tuple | np.ndarray) for item in positions):
        return None
    if len(positions) != prompts:
        raise ValueError(f"positions has {len(positions)} lists for {prompts} prompts: give one list for all, or one per prompt")
    return list(positions)  # type: ignore[arg-type]


def tensor_message(values: Any, what: str = "value") -> tensor_pb2.Tensor:
    """Numbers as the protocol takes them: float32, row-major. ValueError, which says `what` they are, for what is none."""
    array = float32(values, what)
    return tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_F32, shape=array.shape, data=array.tobytes())


def _items(item: Any) -> list[plan_pb2.Positions.Item]:
    make = plan_pb2.Positions.Item
    if isinstance(item, Occurrences):
        return [make(occurrences_of=token_ref(item.token))]
    if isinstance(item, slice) and item.step in (None, 1):
        start, stop = (None if end is None else operator.index(end) for end in (item.start, item.stop))
        return [make(range=plan_pb2.Positions.Range(start=start, end=stop))]
    if isinstance(item, range):
        return [make(index=position) for position in item]
    if isinstance(item, str):
        if item == "all":
            return [make(all=True)]
        if item == "last":
            return [make(last=True)]
        if item == "generated":
            return [make(generated=True)]
        if item == "prompt":
            return [make(range=plan_pb2.Positions.Range())]
        raise ValueError(f"position {item!r} is not known: 'all', 'last', 'prompt' and 'generated' are words; fs.occurrences({item!r}) finds a token")
    if is_int(item):
        return [make(index=as_ints(item, "positions")[0])]
    raise ValueError(f"{item!r} is not a position: use an index, a slice without a step, a range, 'all', 'last', 'prompt', 'generated' or fs.occurrences(token)")
