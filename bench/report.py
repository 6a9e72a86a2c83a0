"""bench/RESULTS.md: written by the bench command, never by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).resolve().parent / "RESULTS.md"


@dataclass
class Row:
    work: str
    beside: str  # what was measured beside it in the same run
    ours: str
    ratio: float
    unit: str
    goal: str
    met: bool
    why: str = ""  # measured reasons, shown when the goal was missed

    def reason(self) -> str:
        return f"Why not \"{self.work}\": {self.why}" if self.why and not self.met else ""

    def line(self) -> str:
        return f"| {self.work} | {self.beside} | {self.ours} | {self.ratio:.2f} {self.unit} | {self.goal} | {'yes' if self.met else '**no**'} |"


def write(machine: list[str], command: str, rows: list[Row]) -> None:
    head = [
        "# Measured results",
        "",
        f"Written by `{command}`. Contenders took turns in one run; figures are medians. SmolLM2-135M-Instruct, float32.",
        "",
        *machine,
        "",
        "| work | beside it | Fluoroscope over loopback | ratio | goal | met |",
        "|---|---|---|---|---|---|",
    ]
    reasons = [line for row in rows if row.reason() for line in ("", row.reason())]
    PATH.write_text("\n".join([*head, *(row.line() for row in rows), *reasons]) + "\n")
