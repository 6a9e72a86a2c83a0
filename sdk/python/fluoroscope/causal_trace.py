"""Causal tracing with noise (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", ROME): where does the model keep a fact?

The subject's token embeddings are corrupted with noise, so that the model loses the fact. Then one place at a time is restored to its clean value: what
brings the answer back carries the fact. Three sweeps of one server request each, over layers and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fluoroscope import options as keywords
from fluoroscope import metrics as make_metric
from fluoroscope.interventions import noise as add_noise
from fluoroscope.metrics import Metric
from fluoroscope.results import counted
from fluoroscope.selections import At, Bos, Positions, Prompts, as_prompts, resolve
from fluoroscope.subjects import positions_of
from fluoroscope.sweep_result import position_text

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

    from fluoroscope.model import Model
    from fluoroscope.sweep_result import SweepResult

SITES = ("resid_post", "mlp_out", "attn_out")


@dataclass(frozen=True)
class CausalTrace:
    """What a causal trace found. Each grid is a SweepResult over (layer, position): base is the corrupted run, source the clean one, means over seeds.

    Attributes:
      resid_post: one layer's residual restored at one position.
      mlp_out, attn_out: the outputs of `window` adjacent layers around the cell's own restored at one position.
      subject: the positions whose embeddings were corrupted.
      noise: the standard deviation of the noise that was added.
      seeds, window: as asked for.
    """

    resid_post: SweepResult
    mlp_out: SweepResult
    attn_out: SweepResult
    subject: tuple[int, ...]
    noise: float
    seeds: int
    window: int

    @property
    def clean(self) -> float:
        """The metric of the clean run."""
        return float(self.resid_post.source.mean())

    @property
    def corrupted(self) -> float:
        """The metric of the corrupted runs, the mean over seeds."""
        return float(self.resid_post.base.mean())

    def __getitem__(self, site: str) -> SweepResult:
        if site not in SITES:
            raise KeyError(f"{site!r} is not one of {', '.join(map(repr, SITES))}")
        return getattr(self, site)  # type: ignore[no-any-return]

    def to_pandas(self) -> pandas.DataFrame:
        """One line per site, layer and position; columns as SweepResult.to_pandas, and "subject": whether the position was corrupted. Needs pandas."""
        import pandas as pd

        frames = []
        for site in SITES:
            frame = self[site].to_pandas()
            frame.insert(0, "site", site)
            frames.append(frame)
        frame = pd.concat(frames, ignore_index=True)
        frame.insert(list(frame.columns).index("position") + 1, "subject", frame["position"].isin(self.subject))
        return frame

    def plot(self, **layout: Any) -> plotly.graph_objects.Figure:
        """Three heat maps side by side, tokens downwards and layers to the right, as in the paper; the subject's tokens are marked with *. Needs plotly."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        titles = ["resid_post, one layer", *(f"{site}, {counted(self.window, 'layer')}" for site in SITES[1:])]
        shown = make_subplots(1, 3, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.02)
        grids = [self[site] for site in SITES]
        ends = [float(f(grid.values)) for grid in grids for f in (np.min, np.max)]
        low, high = min(self.corrupted, *ends), max(self.clean, *ends)
        positions = grids[0].axes[1].labels
        y = [position_text(label) + ("*" if int(label.split(":")[0]) in self.subject else "") for label in positions]
        for column, (grid, colours) in enumerate(zip(grids, ("Purples", "Greens", "Reds"), strict=True), start=1):
            heat = go.Heatmap(
                z=grid.values.T, x=list(grid.axes[0].labels), y=y, zmin=low, zmax=high, colorscale=colours, xgap=1, ygap=1,
                colorbar={"thickness": 10, "x": 1.01 + 0.06 * (column - 1), "len": 0.95, "title": {"text": SITES[column - 1], "side": "right"}},
                hovertemplate="layer <b>%{x}</b><br>%{y}<br>%{z:.4f}<extra></extra>",
            )
            shown.add_trace(heat, 1, column)
            shown.update_xaxes(title="layer", type="category", showgrid=False, row=1, col=column)
        shown.update_yaxes(type="category", autorange="reversed", showgrid=False)
        shown.update_layout(
            template="plotly_white", font={"size": 13}, width=1400, height=max(360, 200 + 24 * len(y)), margin={"l": 90, "r": 20, "t": 100, "b": 60},
            title={"text": f"{grids[0].metric} with one place restored; {self.corrupted:.3f} corrupted, {self.clean:.3f} clean<br>"
                           "<sup>* the subject, whose embeddings have noise</sup>", "x": 0.02},
        )
        return shown.update_layout(**layout)

    def __repr__(self) -> str:
        lines = [
            f"CausalTrace of {self.resid_post.provenance.model}: noise {self.noise:.4g} at positions {list(self.subject)}, {counted(self.seeds, 'seed')}",
            f"  {self.resid_post.metric}: clean {self.clean:.4f}, corrupted {self.corrupted:.4f}",
        ]
        for site in SITES:
            grid = self[site]
            (layer, position), value = max(((labels, value) for labels, value in grid.top(grid.values.size)), key=lambda cell: cell[1])
            lines.append(f"  {site:<10} best {value:.4f} at layer {layer}, position {position}")
        return "\n".join(lines)


@keywords.strict
def causal_trace(
    model: Model,
    prompt: Prompts,
    subject: str | Positions,
    metric: Metric | Sequence[Metric] | None = None,
    *,
    noise: float | None = None,
    seeds: int = 10,
    seed: int = 0,
    window: int = 10,
    layers: int | Sequence[int] = (),
    positions: Positions = None,
    bos: Bos = None,
    parse_special_tokens: bool = False,
    progress: bool | None = None,
    timeout: float | None = None,
) -> CausalTrace:
    """Corrupts the subject's embeddings with noise, restores one place at a time, and says how much of the answer comes back.

    Args:
      prompt: one prompt, such as "The Space Needle is in the city of".
      subject: its words ("Space Needle"), which must stand in the prompt exactly once and not inside other words; or the positions of its tokens.
      metric: what is measured, at the last position. Default: the probability of the token that the clean run thinks most likely, as in the paper.
      noise: standard deviation of the noise on hook_embed. Default: 3 times the standard deviation of all numbers in the embeddings of the subject's tokens.
        (The paper takes that of the subjects of a whole data set; give your own number for that.)
      seeds: how many noise samples are averaged; sample i depends on `seed` and i alone.
      window: how many adjacent layers of mlp_out and attn_out are restored together: from layer - window // 2 on, as far as there are, as in the paper.
      layers, positions: narrow the grid. Default: all.

    Raises:
      ValueError: the subject is not in the prompt, or more than once (the message has the positions), or there are several prompts.
      Otherwise as Model.sweep.
    """
    rows, single = as_prompts(prompt)
    if not single:
        raise ValueError(f"a causal trace is of one prompt; there are {len(rows)}")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; at least one is needed")
    ids = model.tokenize(rows[0], bos=bos, parse_special_tokens=parse_special_tokens) if isinstance(rows[0], str) else rows[0]
    places = _subject(model, ids, subject)  # type: ignore[arg-type]
    if metric is None:
        metric = make_metric.prob(int(model.top_tokens(ids, k=1, timeout=timeout)[0].id), name="probability of the clean answer")  # type: ignore[union-attr]
    if noise is None:
        _, cache = model.run_with_cache(ids, "hook_embed", positions=places, logits=None, remove_batch_dim=True, timeout=timeout)
        noise = 3 * float(np.asarray(cache["hook_embed"], dtype=np.float64).std())
    corruption = add_noise(At("hook_embed", positions=places), noise, seed=seed)  # the pair's number makes each sample another one
    before = window // 2

    def trace(site: str) -> SweepResult:
        wide: dict[str, Any] = {} if site == "resid_post" else {"window": min(window, model.info.layers), "window_before": min(before, model.info.layers - 1)}
        return model.sweep(
            cast(Any, [ids] * seeds), cast(Any, [ids] * seeds), site, ("layer", "position"), metric, corrupt_with=[corruption], layers=layers, positions=positions,
            progress=progress, timeout=timeout, **wide,
        )  # fmt: skip

    resid, mlp, attn = (trace(site) for site in SITES)
    return CausalTrace(resid, mlp, attn, tuple(places), noise, seeds, window)


def _subject(model: Model, ids: list[int], subject: str | Positions) -> list[int]:
    if not isinstance(subject, str) or subject in ("all", "last"):
        found = resolve(subject, len(ids))
        if not found:
            raise ValueError(f"subject: {subject!r} are no positions of the prompt, which has {len(ids)} tokens")
        return found
    return positions_of(model, ids, subject)
