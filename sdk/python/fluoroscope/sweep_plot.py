"""The picture of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fluoroscope.sweep_result import Axis, position_text, unique

if TYPE_CHECKING:
    import plotly.graph_objects

    from fluoroscope.sweep_result import SweepResult


def figure(result: SweepResult, *, title: str = "", normalize: bool | None = None, **layout: Any) -> plotly.graph_objects.Figure:
    """A plotly figure: a line for one axis, a heat map for two, a heat map with a slider over the first axis for three. Of pairs of heads: a heat map with
    one line and one column for each head, called layer.head.

    Args:
      title: above the picture.
      normalize: show 0 for the base run and 1 for the source run. Default: where that is defined.
      layout: goes to plotly's update_layout.

    Raises:
      ValueError: more than three axes; or `normalize=True` where it is not defined.
    """
    import plotly.graph_objects as go

    values, name = result.told
    centre, reach = float(result.base.mean()), _largest(result.scores)
    if values is not result.values:  # estimates are changes themselves
        centre, name = 0.0, f"{result.metric}<br>estimated change"
    if normalize is not False:
        try:
            values, name = result.normalized, f"{result.metric}<br>0 base, 1 source"
            centre, reach = 0.0, max(1.0, _largest(values))
        except ValueError:
            if normalize:
                raise
    axes, values = _by_place(list(result.axes), values)
    if len(axes) > 3:
        raise ValueError(f"a picture has at most three axes; this result has {len(axes)}: {', '.join(axis.name for axis in axes)}")
    shown = go.Figure()
    shown.update_layout(template="plotly_white", title={"text": title, "x": 0.02}, margin={"l": 70, "r": 20, "t": 70, "b": 90}, font={"size": 13})
    if len(axes) == 1:
        shown.add_scatter(x=unique(_label(axes[0], label) for label in axes[0].labels), y=values, mode="lines+markers")
        shown.add_hline(y=centre, line_dash="dot", line_color="grey")
        shown.update_xaxes(title=axes[0].name).update_yaxes(title=name)
        return shown.update_layout(**layout)
    rows, columns = axes[-2:]
    x, y = (unique(_label(axis, label) for label in axis.labels) for axis in (columns, rows))

    gap = 1 if max(len(x), len(y)) <= 100 else 0  # of many small cells gaps would be half the picture

    def heat(z: np.ndarray) -> Any:
        return go.Heatmap(
            z=z, x=x, y=y, zmin=centre - reach, zmax=centre + reach, colorscale="RdBu", xgap=gap, ygap=gap, colorbar={"title": {"text": name}, "thickness": 14},
            hovertemplate=f"{rows.name} <b>%{{y}}</b><br>{columns.name} <b>%{{x}}</b><br>%{{z:.3f}}<extra></extra>",
        )

    # Of three axes the slice with the largest change is the one to begin with; many others may be blank.
    first = int(np.argmax([_largest(part - centre, 0.0) for part in values])) if len(axes) == 3 else 0
    shown.add_trace(heat(values if len(axes) == 2 else values[first]))
    shown.update_xaxes(title=columns.name, tickangle=-45, type="category", showgrid=False, tickmode="linear" if len(x) <= 40 else "auto")
    # Layer 0 at the bottom, as the residual stream is drawn; everything else reads from the top.
    shown.update_yaxes(title=rows.name, type="category", showgrid=False, autorange=None if rows.name == "layer" else "reversed")
    if len(axes) == 3:
        steps = [
            {"label": label, "method": "restyle", "args": [{"z": [values[i].tolist()]}]} for i, label in enumerate(unique(axes[0].labels))
        ]
        shown.update_layout(sliders=[{"steps": steps, "active": first, "currentvalue": {"prefix": f"{axes[0].name} "}, "pad": {"t": 60}}])
    shown.update_layout(width=min(1400, 260 + 34 * max(len(x), 12)), height=min(1200, 220 + 20 * max(len(y), 12) + (80 if len(axes) == 3 else 0)))
    return shown.update_layout(**layout)


def bars(result: SweepResult, k: int, *, title: str = "", **layout: Any) -> plotly.graph_objects.Figure:
    """The k largest changes of pairs, as horizontal bars, the largest on top: "sender → receiver"."""
    import plotly.graph_objects as go

    found = result.top(k)[::-1]
    values = [value for _, value in found]
    names = unique(f"{sender} → {receiver}" for (receiver, sender), _ in found)
    shown = go.Figure(go.Bar(x=values, y=names, orientation="h", marker_color=["#2166ac" if value >= 0 else "#b2182b" for value in values]))
    shown.update_xaxes(title=f"{result.metric}: estimated change").update_yaxes(type="category", tickmode="linear", automargin=True)
    shown.update_layout(
        template="plotly_white", font={"size": 13}, margin={"l": 70, "r": 20, "t": 70, "b": 60}, width=760, height=max(320, 150 + 20 * len(names)),
        title={"text": f"{title}: the {len(names)} largest", "x": 0.02},
    )
    return shown.update_layout(**layout)


def _largest(values: np.ndarray, nothing: float = 1.0) -> float:
    """The largest size of the numbers that are finite; `nothing` where there is none, or all are 0."""
    sizes = np.abs(values[np.isfinite(values)])
    return float(sizes.max(initial=0.0)) or nothing


def _by_place(axes: list[Any], values: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Where cells change two heads: the first's layer and head become one axis, and so do the second's, behind the others."""
    names = [axis.name for axis in axes]
    if not {"layer", "head", "second_layer", "second_head"} <= set(names):
        return axes, values
    ends = ["layer", "head", "second_layer", "second_head"]
    order = [i for i, name in enumerate(names) if name not in ends] + [names.index(name) for name in ends]
    turned = [axes[i] for i in order]
    made = turned[:-4]
    for layers, heads, name in ((*turned[-4:-2], "head"), (*turned[-2:], "second head")):
        made.append(Axis(name, tuple(f"{layer}.{head}" for layer in layers.labels for head in heads.labels)))
    return made, values.transpose(order).reshape(*(len(axis) for axis in made))


def _label(axis: Any, label: str) -> str:
    return position_text(label) if axis.name in ("position", "source") else label
