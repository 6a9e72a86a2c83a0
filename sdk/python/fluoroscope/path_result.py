"""What path patching found."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fluoroscope.sweep_result import Axis, SweepResult

if TYPE_CHECKING:
    import plotly.graph_objects


class PathResult(SweepResult):
    """A SweepResult with the axes "receiver" and "sender"; `convention` says what was frozen.

    A value is the metric when the receiver reads what the sender says in the source run, and all else is as in the base run. `scores` are the changes. Both are
    NaN where the sender does not come before the receiver, so that there is no path. Of edge attributions (model.attribute_edges) tables, lists and pictures
    give the scores, and `values` are the base run's metric plus them.
    """

    def by_head(self) -> SweepResult:
        """The same with the senders, which must be all heads of some layers in order, as two axes: [receiver, layer, head]; a single receiver has no axis.

        Raises:
          ValueError: the senders are not such a grid.
        """
        senders = self.axes[1].labels
        places = [re.fullmatch(r"(\d+)\.(\d+)", label) for label in senders]
        layers = list(dict.fromkeys(place[1] for place in places if place))
        heads = list(dict.fromkeys(place[2] for place in places if place))
        if list(senders) != [f"{layer}.{head}" for layer in layers for head in heads]:
            raise ValueError("the senders are not all heads of some layers, so they have no layer and head axes")
        metrics, per_pair, base, source = self._all
        receivers = self.axes[0]
        several = len(receivers) > 1
        axes = [*([receivers] if several else []), Axis("layer", tuple(layers)), Axis("head", tuple(heads))]
        shape = (*per_pair.shape[:2], *(len(axis) for axis in axes))
        checks = [replace(check, exact=check.exact.reshape(shape[2:])) for check in self._checks]
        title = self._title if several else f"{self._title} to {receivers.labels[0]}"
        return SweepResult(axes, metrics, per_pair.reshape(shape), base, source, self.estimate, self.provenance, self.timing, self.warnings, title,
                           self.convention, checks, self._precisions, self._chosen)  # fmt: skip

    def plot(self, *, by_head: bool | None = None, k: int = 30, **options: Any) -> plotly.graph_objects.Figure:
        """Where the senders are all heads: a heat map of layers by heads, with a slider over receivers. Of other edge attributions: the edges with the
        largest scores as bars. Else: a heat map of receivers by senders.

        Args:
          by_head: False: always receivers by senders. True: layers by heads, ValueError where that cannot be.
          k: how many edges have a bar.
          options: see fluoroscope.sweep_plot.figure; of bars what goes to plotly's update_layout. The colours show the metric itself (of edge attributions
            the scores) unless `normalize=True`.
        """
        options.setdefault("normalize", False)
        if by_head is not False:
            try:
                return self.by_head().plot(**options)
            except ValueError:
                if by_head:
                    raise
        if by_head is None and self.convention.startswith("edge") and not options.pop("normalize"):
            from fluoroscope.sweep_plot import bars

            return bars(self, k, **{"title": self._title} | options)
        return super().plot(**options)
