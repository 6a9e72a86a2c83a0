"""A tour of a language model: a patching sweep over every layer and position of SmolLM2-135M, then what it predicts, where the answer comes up, and which
number carries it.

Run it with scripts/demo. It starts a server of its own, or uses the one at --target.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fluoroscope as fs
import numpy as np
from fluoroscope import local_server, store
from safetensors import safe_open

MODEL = "smollm2-135m"
CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
RIGHT, WRONG = " Mary", " John"
PATCH_LAYER = 12

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
BLOCK = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help=f"a running server with the model {MODEL!r}; default: start one")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the heat maps (default: demo-output)")
    parser.add_argument("--no-wait", action="store_true", help="end at once, also on a terminal")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        with fs.connect(options.target) if options.target else fs.serve(MODEL) as client:
            tour(client, options.out, time.monotonic() - started)
            show_what_next(client, wait=sys.stdin.isatty() and sys.stdout.isatty() and not options.no_wait)
    except fs.FluoroscopeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError:
        return 1  # the command has said why
    except KeyboardInterrupt:
        return 130
    return 0


def tour(client: fs.Client, out: Path, seconds: float) -> None:
    model = client.model(MODEL)
    print(f"{model!r}\nserved at {client.target}, ready after {seconds:.1f} s")
    show_sweep(model, client.target, out)
    show_predictions(model)
    show_lens(model)
    show_patch(model)
    show_attention(model, out)


def show_sweep(model: fs.Model, target: str, out: Path) -> None:
    heading(f"Which places carry the answer?  ({model.info.layers} x {len(model.tokenize(CORRUPT))} patches, one request)")
    print(
        f"Who gets the bag? The clean prompt means {RIGHT!r}; with one name swapped, the corrupt one means {WRONG!r}. Each cell is the corrupt prompt run\n"
        "with the residual stream of one layer at one position taken from the clean run: 1 is the clean answer, all of it back.\n"
    )
    print(dim(f"$ fluoroscope sweep {MODEL} --answer '{RIGHT}' --foil '{WRONG}' \\\n    --clean '{CLEAN}' \\\n    --corrupt '{CORRUPT}'"), flush=True)
    command = [local_server.find_binary().parent / "fluoroscope", "--target", target, "sweep", MODEL,
               "--answer", RIGHT, "--foil", WRONG, "--clean", CLEAN, "--corrupt", CORRUPT]  # fmt: skip
    subprocess.run(command, check=True)
    sweep = model.sweep(CLEAN, CORRUPT, "resid_pre", ("layer", "position"), fs.metrics.logit_diff(RIGHT, WRONG), progress=False)
    (where,) = model.differing_positions(CLEAN, CORRUPT)
    leaves = int(np.argmax(sweep.normalized[:, where] < 0.5))
    arrives = int(np.argmax(sweep.normalized[:, -1] > 0.5))
    print(f"\nUp to layer {leaves - 1} the answer sits where the prompts differ, at {sweep.axes[1].labels[where]!r}; from layer {arrives} on at the last position.")
    out.mkdir(parents=True, exist_ok=True)
    path = (out / "sweep.html").resolve()
    sweep.plot().write_html(path, include_plotlyjs=True, full_html=True, config={"displayModeBar": False})
    print(f"In Python this is model.sweep(...), and .plot() gives the same to hover over, one HTML file that needs nothing else:\n  {bold(str(path))}")


def show_predictions(model: fs.Model) -> None:
    heading("What does it predict?")
    print("Swap one name in the prompt, and the answer should swap too.\n")
    for prompt, top in zip([CLEAN, CORRUPT], model.top_tokens([CLEAN, CORRUPT], k=4), strict=True):
        print(bold(prompt))
        for item in top:
            print(f"  {item.probability:6.3f}  {item.token!r:<10} {bar(item.probability)}")
        print()


def show_lens(model: fs.Model) -> None:
    heading("Where does the answer come up?  (logit lens)")
    print(
        "After each layer, the last position's residual stream read as if it were the last one: final norm, then unembedding.\n"
        "The residuals come from the server; norm and unembedding are done here, in numpy, with the two weights read from the\n"
        "model's own directory. The last line must be the model's answer.\n"
    )
    _, cache = model.run_with_cache(CLEAN, "blocks.*.hook_resid_post", positions="last", logits=None)
    residuals = np.concatenate([cache["resid_post", layer][0] for layer in range(model.info.layers)])  # [layer, d_model]
    logits = unembed(residuals, store.model_path(MODEL))
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
    (right,), (wrong,) = model.tokenize(RIGHT), model.tokenize(WRONG)
    best = logprobs.argmax(-1)
    texts = model.to_str_tokens([[int(token)] for token in best])
    print(dim(f"  layer  {'top guess':<12}     p   rank of {RIGHT!r}  logit of {RIGHT!r} - {WRONG!r}"))
    for layer, (row, token, (text,)) in enumerate(zip(logprobs, best, texts, strict=True)):
        rank = int((row > row[right]).sum()) + 1
        margin = row[right] - row[wrong]
        line = f"  {layer:>5}  {clip(repr(text), 12):<12} {np.exp(row[token]):5.3f} {rank:>12,}     {margin:+7.3f}  {bar(max(margin, 0) / 4, 30)}"
        print(bold(line) if token == right else line)
    served = np.asarray(model.run_with_cache(CLEAN, (), logits="last")[0])[0, 0]
    print(f"\nlogit({RIGHT!r}) - logit({WRONG!r}) after the last layer: {logits[-1, right] - logits[-1, wrong]:.3f} here, "
          f"{served[right] - served[wrong]:.3f} in the server's own logits.")


def unembed(residuals: np.ndarray, directory: Path) -> np.ndarray:
    """The logits [n, vocabulary] that the model would give if these were its last residuals [n, d_model]."""
    with safe_open(directory / "model.safetensors", "np") as weights:
        norm, embedding = weights.get_tensor("model.norm.weight"), weights.get_tensor("model.embed_tokens.weight")  # tied: also the unembedding
    x = residuals.astype(np.float64)
    return (x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * norm).astype(np.float32) @ embedding.T


def show_patch(model: fs.Model) -> None:
    heading("Which number carries it?  (activation patching)")
    where = model.differing_positions(CLEAN, CORRUPT)
    tokens = model.to_str_tokens(CORRUPT)
    print(f"The prompts differ at position {where}: {tokens[where[0]]!r} instead of {model.to_str_tokens(CLEAN)[where[0]]!r}.")
    print(f"So: run the corrupted prompt, but put in the clean run's residual stream at that position, before layer {PATCH_LAYER}.\n")
    diff = fs.metrics.logit_diff(RIGHT, WRONG)
    cell = fs.patch(("resid_pre", PATCH_LAYER), source=CLEAN, positions=where)
    clean = model.run_with_hooks(CLEAN, metrics=[diff], logits=None).metrics[diff][0]
    corrupt = model.run_with_hooks(CORRUPT, metrics=[diff], logits=None).metrics[diff][0]
    patched = model.run_with_hooks(CORRUPT, [cell], metrics=[diff], logits=None).metrics[diff][0]
    for label, value in (("clean", clean), ("corrupted", corrupt), ("patched", patched)):
        print(f"  {label:<10} logit({RIGHT!r}) - logit({WRONG!r}) = {value:+6.3f}")
    print(f"\n{bold(f'{(patched - corrupt) / (clean - corrupt):.0%} of the answer is back')}, from {model.info.d_model} numbers:")
    for item in model.top_tokens(CORRUPT, k=2, interventions=[cell]):
        print(f"  {item.probability:6.3f}  {item.token!r:<10} {bar(item.probability)}")
    print("\nThe same cell before every layer (one request, one row per layer): the answer leaves this position where the bar falls.\n")
    layers = range(model.info.layers)
    column = [fs.patch(("resid_pre", layer), source=CLEAN, positions=where, rows=layer) for layer in layers]
    restored = (model.run_with_hooks([CORRUPT] * len(layers), column, metrics=[diff], logits=None).metrics[diff] - corrupt) / (clean - corrupt)
    for layer, value in zip(layers, restored, strict=True):
        print(f"  {layer:>5}  {value:6.0%} {bar(min(max(value, 0), 1))}")


def show_attention(model: fs.Model, out: Path) -> None:
    heading("Who looks at whom?  (attention)")
    _, cache = model.run_with_cache(CLEAN, "blocks.*.attn.hook_pattern", logits=None, remove_batch_dim=True)
    patterns = np.stack([cache["pattern", layer] for layer in range(model.info.layers)])  # [layer, head, query, key]
    tokens = cache.str_tokens
    target = tokens.index(RIGHT)
    looks = patterns[:, :, -1, target]
    order = np.dstack(np.unravel_index(np.argsort(-looks, axis=None), looks.shape))[0][:12]
    print(f"Heads whose last position looks most at {RIGHT!r} (position {target}), the name that is the answer:\n")
    for layer, head in order[:5]:
        print(f"  layer {layer:>2} head {head}  {looks[layer, head]:5.3f} {bar(looks[layer, head], 30)}")
    path = write_heat_map(out / "attention.html", patterns, [str(token) for token in tokens], [(int(layer), int(head)) for layer, head in order])
    print(f"\nThe heat map of these heads, again one HTML file:\n  {bold(str(path))}")


def write_heat_map(path: Path, patterns: np.ndarray, tokens: list[str], heads: list[tuple[int, int]]) -> Path:
    import plotly.graph_objects as go

    labels = [f"{position} {token.strip() or repr(token)}" for position, token in enumerate(tokens)]
    future = np.triu(np.ones(patterns.shape[-2:], bool), 1)
    shown = [np.where(future, np.nan, patterns[layer, head]) for layer, head in heads]
    heat = go.Heatmap(
        z=shown[0], x=labels, y=labels, zmin=0, zmax=1, colorscale="Blues", xgap=1, ygap=1, hoverongaps=False,
        colorbar={"title": {"text": "attention"}, "thickness": 14, "outlinewidth": 0},
        hovertemplate="from <b>%{y}</b><br>to <b>%{x}</b><br>%{z:.3f}<extra></extra>",
    )
    buttons = [
        {"label": f"layer {layer}, head {head}", "method": "restyle", "args": [{"z": [values.tolist()]}]}
        for (layer, head), values in zip(heads, np.array([np.where(np.isnan(v), None, v) for v in shown], dtype=object), strict=True)
    ]
    figure = go.Figure(heat)
    figure.update_layout(
        title={"x": 0.02, "y": 0.95, "text": f"Attention patterns of {MODEL}<br><sup>each row is a position and shows where it looks; rows sum to 1<br>"
                                             "position 0 is where heads look that have nothing to do</sup>"},
        updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.03, "yanchor": "bottom"}],
        template="plotly_white", width=860, height=760, margin={"l": 110, "r": 40, "t": 130, "b": 100}, font={"size": 13},
        xaxis={"title": "looks at (key)", "tickangle": -45, "showgrid": False, "constrain": "domain"},
        yaxis={"title": "from (query)", "autorange": "reversed", "showgrid": False, "scaleanchor": "x", "constrain": "domain", "constraintoward": "top"},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs=True, full_html=True, config={"displayModeBar": False})
    return path.resolve()


def show_what_next(client: fs.Client, wait: bool) -> None:
    heading("And now?")
    if client.server is not None:
        url = f"http://{client.server.http_address}/metrics"
        print(f"The server's metrics, for Prometheus: {bold(url)}")
        with urllib.request.urlopen(url, timeout=5) as reply:
            lines = [line for line in reply.read().decode().splitlines() if line.startswith("fluoroscope_") and "_bucket" not in line]
        for line in [line for line in lines if "forward_tokens" in line or "identity" in line][:4]:
            print(dim(f"  {line}"))
        print()
    home = str(Path.home())
    directory = str(store.model_path(MODEL))
    directory = "$HOME" + directory.removeprefix(home) if directory.startswith(home + os.sep) else directory
    python = "\n".join(
        [
            "  .venv/bin/python",
            "  >>> import fluoroscope as fs",
            f"  >>> client = fs.serve({MODEL!r}); model = client.model({MODEL!r})",
            "  >>> model.hooks()                    # everything that can be read and edited, each with its equation",
            '  >>> logits, cache = model.run_with_cache("The capital of France is", "blocks.*.hook_resid_post"); cache',
            f'  >>> clean   = "{CLEAN}"',
            f'  >>> corrupt = "{CORRUPT}"',
            f'  >>> diff = fs.metrics.logit_diff("{RIGHT}", "{WRONG}")',
            '  >>> model.sweep(clean, corrupt, "z", ("layer", "head"), diff).top(5)      # which heads carry it',
            '  >>> model.run_with_hooks(corrupt, [fs.patch(("z", 24), source=clean, positions="last", heads=4)], metrics=[diff]).metrics',
        ]
    )
    print("In Python:\n" + python)
    print(f"\nOn the command line, with a server that stays:\n  export PATH=$PWD/build/release/bin:$PATH\n"
          f"  fluoroscope-server --model={MODEL}={directory} &\n"
          f"  fluoroscope hooks {MODEL}\n  fluoroscope run {MODEL} \"The capital of France is\" --top 5")
    if wait:
        input("\nThe server runs until you press Enter. ")


def heading(text: str) -> None:
    print(f"\n{bold(text)}\n{dim('-' * min(len(text), shutil.get_terminal_size().columns))}")


def bar(share: float, width: int = 40) -> str:
    return BLOCK * round(float(share) * width)


def clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if COLOUR else text


def dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if COLOUR else text


if __name__ == "__main__":
    sys.exit(main())
