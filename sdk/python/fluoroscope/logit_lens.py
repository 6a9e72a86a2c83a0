"""The logit lens, computed on the server: what the model would say if it ended after each layer. See Model.logit_lens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fluoroscope import options as keywords
from fluoroscope.cache import LensValues
from fluoroscope.indices import as_ints, is_int, whole
from fluoroscope.requests import CaptureChoice, Lens
from fluoroscope.results import Provenance, TopToken, TopTokens, counted
from fluoroscope.selections import Bos, Positions, Prompts, Token, as_prompts
from fluoroscope.sweep import short_site
from fluoroscope.sweep_result import unique

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

    from fluoroscope.model import Model

CONVENTION = (
    "logit lens: the final norm with the statistics of each residual itself and the norm's own weights, then the unembedding; "
    "log-probabilities over the whole vocabulary, in nats"
)
_IDS_AT_ONCE = 64


@dataclass(frozen=True, repr=False)
class LogitLens:
    """The best tokens, or chosen ones, after each layer at each position.

    Attributes:
      tokens: ids, int64 [layer, position, k]: best first, or the chosen ones in the order given.
      texts: the same as text.
      logits, logprobs: float32 [layer, position, k].
      layers, positions: what the first two axes are.
      str_tokens: the prompt's tokens, all of them.
      site: what was read out.
      chosen: whether the tokens were given, not the best ones.
      convention: how to read the numbers.
    """

    tokens: np.ndarray
    texts: np.ndarray
    logits: np.ndarray
    logprobs: np.ndarray
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    str_tokens: tuple[str, ...]
    site: str
    chosen: bool
    provenance: Provenance = field(repr=False)
    convention: str = CONVENTION

    @property
    def probs(self) -> np.ndarray:
        """exp(logprobs)."""
        return np.exp(self.logprobs)

    def top(self, layer: int, position: int = -1) -> TopTokens:
        """The tokens after a layer (negative: from the last one) at a position of the prompt (negative: from its end), best first."""
        row, column = self._index(self.layers, layer, max(self.layers) + 1), self._index(self.positions, position, len(self.str_tokens))
        found = zip(self.texts[row, column], self.tokens[row, column], self.logits[row, column], self.logprobs[row, column], strict=True)
        return TopTokens(sorted((TopToken(str(text), int(i), float(x), float(p)) for text, i, x, p in found), key=lambda token: -token.logit))

    def to_pandas(self) -> pandas.DataFrame:
        """One line per layer, position and token. Needs pandas."""
        import pandas as pd

        shape = self.tokens.shape
        layers, positions, ranks = (axis.ravel() for axis in np.meshgrid(self.layers, self.positions, range(shape[2]), indexing="ij"))
        return pd.DataFrame({
            "layer": layers, "position": positions, "prompt_token": [self.str_tokens[p] for p in positions], "rank": ranks + 1, "token": self.tokens.ravel(),
            "text": self.texts.ravel(), "logit": self.logits.ravel(), "logprob": self.logprobs.ravel(),
        })  # fmt: skip

    def plot(self, *, token: int = 0, **layout: Any) -> plotly.graph_objects.Figure:
        """A heat map of layers (upwards) by positions: the probability of the best token, whose text is in the cell, with ␣ for a space; of given tokens the
        log-probability. Hover for the others. Needs plotly.

        Args:
          token: which of the tokens along the last axis.
          layout: goes to plotly's update_layout.
        """
        import plotly.graph_objects as go

        # Probabilities of a token that is followed are nearly 0 in most layers, and tell nothing there.
        numbers = self.logprobs if self.chosen else self.probs
        hover = [["<br>".join(f"{text!r} {p:.3f}" for text, p in zip(texts, values, strict=True)) for texts, values in zip(*cells, strict=True)]
                 for cells in zip(self.texts, numbers, strict=True)]  # fmt: skip
        x = unique(f"{p} {_visible(self.str_tokens[p].strip(' '))}" for p in self.positions)
        shown_text = [[_visible(str(text)) for text in row] for row in self.texts[..., token]]
        name = f"log p({self.texts[0, 0, token]!r})" if self.chosen else "p(best token)"
        low = float(np.nanmin(numbers[..., token])) if self.chosen else 0
        heat = go.Heatmap(
            z=numbers[..., token], x=x, y=[str(layer) for layer in self.layers], zmin=low, zmax=0 if self.chosen else 1,
            colorscale="Blues", xgap=1, ygap=1, customdata=hover, text=None if self.chosen else shown_text, texttemplate=None if self.chosen else "%{text}",
            textfont={"size": 10}, colorbar={"title": {"text": name}, "thickness": 14},
            hovertemplate="layer <b>%{y}</b>, <b>%{x}</b><br>%{customdata}<extra></extra>",
        )  # fmt: skip
        figure = go.Figure(heat)
        figure.update_xaxes(title="position", tickangle=-45, type="category", showgrid=False)
        figure.update_yaxes(title="after layer", type="category", showgrid=False)
        figure.update_layout(
            template="plotly_white", font={"size": 13}, margin={"l": 70, "r": 20, "t": 70, "b": 90}, title={"text": f"logit lens of {self.site}", "x": 0.02},
            width=min(1800, 260 + 64 * max(len(x), 6)), height=min(1400, 220 + 22 * max(len(self.layers), 8)),
        )  # fmt: skip
        return figure.update_layout(**layout)

    def __repr__(self) -> str:
        last = len(self.positions) - 1
        where = f"position {self.positions[last]} ({self.str_tokens[self.positions[last]]!r})"
        size = f"{counted(len(self.layers), 'layer')} x {counted(len(self.positions), 'position')}"
        what = ", log-probabilities" if self.chosen else ""
        lines = [f"LogitLens of {self.provenance.model}: {self.site}, {size}; at {where}{what}:"]
        numbers = self.logprobs if self.chosen else self.probs
        for row, layer in enumerate(self.layers):
            best = "  ".join(f"{text!r} {p:.3f}" for text, p in list(zip(self.texts[row, last], numbers[row, last], strict=True))[:4])
            lines.append(f"  {layer:>3}  {best}")
        return "\n".join(lines)

    @staticmethod
    def _index(there: Sequence[int], wanted: int, size: int) -> int:
        absolute = wanted + size if wanted < 0 else wanted
        if absolute not in there:
            raise ValueError(f"{wanted} is not among {list(there)}")
        return list(there).index(absolute)


@keywords.strict
def logit_lens(
    model: Model,
    prompt: Prompts,
    *,
    site: str = "resid_post",
    layers: int | Sequence[int] = (),
    positions: Positions = None,
    top_k: int | None = None,
    tokens: Token | Sequence[Token] = (),
    bos: Bos = None,
    parse_special_tokens: bool = False,
    timeout: float | None = None,
) -> LogitLens:
    """Reads the residual stream out after each layer. Only tokens and their numbers cross the wire.

    Args:
      prompt: one prompt.
      site: "resid_post" (default), "resid_pre", "resid_mid", or anything else that has d_model numbers per position, such as "mlp_out".
      layers: default all; negative ones count from the last. positions: default all.
      top_k: how many of the best tokens. Default: 5.
      tokens: follow these tokens instead of the best ones.

    Raises:
      ValueError: several prompts; both `top_k` and `tokens`; a `top_k` under 1.
      InvalidArgumentError: a site without a residual vector; more tokens than the vocabulary has.
    """
    rows, single = as_prompts(prompt)
    if not single:
        raise ValueError(f"a logit lens is of one prompt; there are {len(rows)}")
    name = short_site(site)
    chosen: list[Any] = [tokens] if isinstance(tokens, str) or is_int(tokens) or not isinstance(tokens, Iterable) else list(tokens)
    if top_k is not None and chosen:
        raise ValueError(f"top_k is {top_k}, and tokens are given too: either the best tokens or these")
    top_k = 5 if top_k is None else whole(top_k, "top_k", 1)
    wanted = as_ints(layers, "layers")
    capture = CaptureChoice([f"blocks.*.{name}"], positions, wanted, (), Lens(tokens=chosen) if chosen else Lens(top_k))
    plan = model._build(rows[0], capture=capture, logits=None, bos=bos, parse_special_tokens=parse_special_tokens)
    result = model._run(plan, "float32", True, timeout)
    found = sorted({layer % model.info.layers for layer in wanted} or range(model.info.layers))
    keys = [f"blocks.{layer}.{name}" for layer in found]
    values = [cast(LensValues, result.cache[key]) for key in keys]
    logits, logprobs = np.stack([value.logits for value in values]), np.stack([value.logprobs for value in values])
    if chosen:
        ids = np.array([model.to_single_token(token) if isinstance(token, str) else int(token) for token in chosen])
        ids = np.broadcast_to(ids, logits.shape).copy()
    else:
        ids = np.stack([cast(np.ndarray, value.tokens) for value in values])
    return LogitLens(ids, texts_of(model, ids), logits, logprobs, tuple(found), result.cache.positions(keys[0])[0],
                     tuple(cast("list[str]", result.cache.str_tokens)), name, bool(chosen), result.provenance)  # fmt: skip


def _visible(text: str) -> str:
    """Spaces at the ends of a token are lost in a picture, line breaks would break it, and other characters show nothing."""
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inner else len(text)
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in inner)
    return "␣" * before + shown + "␣" * (len(text) - before - len(inner))


def texts_of(model: Model, ids: np.ndarray) -> np.ndarray:
    """The text of each id on its own, an object array of the same shape."""
    known, inverse = np.unique(ids, return_inverse=True)
    pieces = [known[at : at + _IDS_AT_ONCE].tolist() for at in range(0, len(known), _IDS_AT_ONCE)]
    texts = np.array([text for row in model.to_str_tokens(pieces) for text in row], dtype=object)
    return texts[inverse].reshape(ids.shape)
