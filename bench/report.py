"""bench/RESULTS.md: written by the bench command, never by hand. It has a section for each kind of processor; a run writes its own anew and leaves the others."""

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


def write(processor: str, machine: list[str], command: str, rows: list[Row]) -> None:
    """`processor`: the section's title. `machine`: more about it, and about this run."""
    table = [
        "| work | beside it | Fluoroscope over loopback | ratio | goal | met |",
        "|---|---|---|---|---|---|",
    ]
    reasons = [line for row in rows if row.reason() for line in ("", row.reason())]
    section = "\n".join([*machine, "", *table, *(row.line() for row in rows), *reasons])
    write_sections({**read_sections(), processor: section}, command)


def read_sections() -> dict[str, str]:
    """By processor, as they stand."""
    text = PATH.read_text() if PATH.exists() else ""
    parts = (part.split("\n", 1) for part in text.split("\n## ")[1:])
    return {title.strip(): body.strip() for title, body in parts}


def write_sections(sections: dict[str, str], command: str) -> None:
    head = (f"# Measured results\n\nWritten by `{command}`, a section for each kind of processor. Contenders took turns in one run; figures are medians. "
            "SmolLM2-135M-Instruct, float32.\n")  # fmt: skip
    PATH.write_text(head + "".join(f"\n## {title}\n\n{body}\n" for title, body in sorted(sections.items())))
