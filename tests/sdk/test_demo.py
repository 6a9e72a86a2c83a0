"""The tour that newcomers see: it runs piped, says true things, and writes heat maps that need nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_tells_the_story(smollm2_path, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts" / "demo.py", "--out", tmp_path], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "\033" not in out  # piped: no colours
    sweep_is_shown(out, tmp_path / "sweep.html")
    assert re.search(r"0\.84\d  ' Mary'", out)
    lens = re.findall(r"^ +(\d+)  '.*?' +\d\.\d{3} +[\d,]+ +[+-]\d+\.\d{3}", out, re.MULTILINE)
    assert lens == [str(layer) for layer in range(30)]
    here, served = re.search(r"after the last layer: (\S+) here, (\S+) in the server's own logits", out).groups()
    assert abs(float(here) - float(served)) < 0.002
    assert "differ at position [9]" in out
    values = {label: float(value) for label, value in re.findall(r"(clean|corrupted|patched) +logit.* = ([+-][\d.]+)", out)}
    assert values["clean"] > 3 and values["corrupted"] < -3 and values["patched"] > 3
    assert re.search(r"http://127\.0\.0\.1:\d+/metrics\n  fluoroscope_", out)
    next_steps = out[out.index("And now?") :]
    assert re.search(r">>> client = fs\.serve\('smollm2-135m'\); model = client\.model\('smollm2-135m'\)\n +>>> model\.hooks\(\) ", next_steps)
    assert re.search(r"^  fluoroscope-server --model=smollm2-135m=\S+ &\n  fluoroscope hooks smollm2-135m\n  fluoroscope run smollm2-135m ", next_steps, re.MULTILINE)
    page = (tmp_path / "attention.html").read_text()
    assert "plotly.js v" in page and not re.search(r'<(script|link)[^>]*(src|href)="http', page)


def sweep_is_shown(out: str, page: Path) -> None:
    """The tour opens with the 30 x 14 sweep: layers from bottom to top, and what it says of them."""
    rows = re.findall(r"^ *(\d+)((?: +-?\d+\.\d{3}){14})$", out, re.MULTILINE)
    assert [int(layer) for layer, _ in rows] == list(range(29, -1, -1))
    assert out.index(rows[0][1]) < out.index("What does it predict?")
    shares = np.array([[float(value) for value in values.split()] for _, values in reversed(rows)])
    assert shares[0, 9] == 1 and (shares[:, :9] == 0).all()  # nothing differs before the name; all of it does there
    leaves, arrives = map(int, re.search(r"Up to layer (\d+) the answer sits .* at '9: Mary'; from layer (\d+) on at the last position", out).groups())
    assert shares[leaves, 9] > 0.5 > shares[leaves + 1, 9] and shares[arrives, 13] > 0.5 > shares[arrives - 1, 13]
    html = page.read_text()
    assert '"type":"heatmap"' in html and not re.search(r'<(script|link)[^>]*(src|href)="http', html)


def test_the_heat_map_shows_the_patterns(tmp_path):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import demo
    finally:
        sys.path.pop(0)
    patterns = np.tril(np.ones((2, 3, 2, 2), np.float32))
    patterns[1, 2, 1] = [0.25, 0.75]
    page = demo.write_heat_map(tmp_path / "new" / "a.html", patterns, ["a", " b"], [(1, 2), (0, 0)]).read_text()
    menu, _ = json.JSONDecoder().raw_decode(page, page.index('"buttons":[{"args"') + len('"buttons":'))
    assert [button["label"] for button in menu] == ["layer 1, head 2", "layer 0, head 0"]
    assert menu[0]["args"] == [{"z": [[[1.0, None], [0.25, 0.75]]]}]
