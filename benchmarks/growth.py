"""How cost grows: with the batch, the beams, the length of captions, the rows of a memory, the captions of a corpus.

    python benchmarks/growth.py [RESULT.json [PICTURE.svg]]

Every point is a process of its own, so that its peak memory is its own too: the greatest resident size, models and libraries included. Decoding is
CapDec's decoder of benchmarks/decoding.py in the faster precision, 32 embeddings, 5 beams and 20 tokens where nothing else is said; of a memory 32
projections are made in float32; a corpus is embedded by `mini`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import machine, peak, seconds

from capdec.drawing import COLOURS, require, save
from capdec.precision import precision
from capdec.protocols import Condition, Decoding

AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "batch": ("captions at a time", (1, 2, 4, 8, 16, 32, 64, 128)),
    "beams": ("beams", (1, 2, 3, 5, 8, 12)),
    "length": ("tokens a caption", (5, 10, 20, 40, 60)),
    "memory": ("rows of a memory", (10_000, 50_000, 200_000, 500_000, 1_000_000)),
    "corpus": ("captions of a corpus", (1_000, 5_000, 20_000, 100_000)),
}


def decoding(batch: int = 32, beams: int = 5, length: int = 20) -> tuple[Callable[[], Any], int]:
    from decoding import conditions, decoder

    made = decoder()
    made.dtype = getattr(torch, precision("auto", made.lm.device))
    some, search = conditions(batch), Decoding(beams=beams, max_tokens=length)
    return lambda: made.generate(some, search), batch


def projection(rows: int) -> tuple[Callable[[], Any], int]:
    from capdec.bridges.memory_projection import MemoryProjection

    bridge, generator = MemoryProjection(512, temperature=0.01), torch.Generator().manual_seed(0)
    memory = torch.empty(rows, 512, dtype=torch.bfloat16)
    for part in memory.split(10_000):
        part.copy_(F.normalize(torch.randn(part.shape, generator=generator), dim=-1))
    bridge.restore({"memory": memory})
    queries = Condition.of(F.normalize(memory[:32].float() + 0.05 * torch.randn(32, 512, generator=generator), dim=-1))
    return lambda: bridge.from_image(queries, None), 32


def corpus(captions: int) -> tuple[Callable[[], Any], int]:
    from encoders import captions as invented

    from capdec.backbones.mini import Mini
    from capdec.corpus import Pairs, embed

    texts, backbone = invented(captions), Mini()
    pairs = Pairs(texts, texts, [None] * captions)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            embed(pairs, backbone, Path(folder) / "store")

    return run, captions


def point(axis: str, size: int) -> dict[str, float]:
    """One measurement, in this process."""
    if axis in ("batch", "beams", "length"):
        run, units = decoding(**{axis: size})
    else:
        run, units = {"memory": projection, "corpus": corpus}[axis](size)
    if axis != "corpus":
        run()
    return {"seconds": min(seconds(run) for _ in range(1 if axis == "corpus" else 3)) / units, "peak": peak()}


def picture(found: dict[str, list[dict[str, float]]], path: str) -> None:
    figure = require(path)(figsize=(3.1 * len(AXES), 5), layout="constrained")
    panels = figure.subplots(2, len(AXES), sharex="col")
    for column, (axis, points) in enumerate(found.items()):
        sizes = [one["size"] for one in points]
        for panel, values in zip(panels[:, column], ([1000 * one["seconds"] for one in points], [one["peak"] for one in points]), strict=True):
            panel.plot(sizes, values, "o-", color=COLOURS[1], markersize=4)
            panel.set_ylim(0, 1.15 * max(values))
            panel.set_xscale("log" if axis in ("batch", "corpus") else "linear")
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        panels[1, column].set_xlabel(AXES[axis][0])
    panels[0, 0].set_ylabel("ms each")
    panels[1, 0].set_ylabel("peak memory, MiB")
    save(figure, path)


def main() -> None:
    if sys.argv[1:2] == ["point"]:
        print(json.dumps(point(sys.argv[2], int(sys.argv[3]))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for axis, (_, sizes) in AXES.items():
        for size in sizes:
            done = subprocess.run([sys.executable, __file__, "point", axis, str(size)], capture_output=True, text=True, check=True)
            found.setdefault(axis, []).append({"size": size, **json.loads(done.stdout.splitlines()[-1])})
            print(
                f"{AXES[axis][0]:<42} {size:>9,}  {1000 * found[axis][-1]['seconds']:9.3f} ms each  {found[axis][-1]['peak']:7,.0f} MiB", flush=True
            )
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({"machine": machine(), "growth": found}, indent=1) + "\n")
    if len(sys.argv) > 2:
        picture(found, sys.argv[2])


if __name__ == "__main__":
    main()
