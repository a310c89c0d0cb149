"""How many rows a second the workers of `capdec bulk` caption on this machine, by their number: photos of 640 x 480 and stored embeddings, with the
embedded captioner and with one of CLIP ViT-B/32's and GPT-2's size (random weights). docs/scaling.md reckons with it.

    python benchmarks/bulk.py [RESULT.json [WORKERS ...]]

The workers share the machine's cores, and its GPU where there is one. Each does a piece to warm up; then all do one at the same time.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from decoding import decoder
from encoders import clip, jpegs
from side_by_side import DEVICE, machine

from capdec import Captioner, parts
from capdec.bulk import Job, caption_piece
from capdec.pieces import Reading, plan

CORES = len(os.sched_getaffinity(0))
BATCH = 256 if DEVICE == "cuda" else 32
PHOTOS, VECTORS = (512, 2048) if DEVICE == "cuda" else (128, 128)
LARGE = "ViT-B/32 and GPT-2 small"


def captioner(name: str, folder: Path) -> Captioner:
    if name != LARGE:
        return Captioner.load(device=DEVICE, dtype="auto")
    spec = {"backbone": {"name": "huggingface", "model": str(folder / "clip")}, "bridges": [], "decoder": "prefix_lm"}
    backbone = parts.build("backbones", spec["backbone"], device=DEVICE)
    made = Captioner(backbone, [], decoder(backbone.dim), spec)
    made.compute_in("auto")
    return made


def worker(folder: Path, number: int, threads: int, together: Any, told: Any) -> None:
    """Times its share of each kind of work, between two points where all workers meet."""
    if DEVICE == "cpu":
        torch.set_num_threads(threads)
    for name in ("embedded", LARGE):
        made = captioner(name, folder)
        greedy = replace(made.decoding, strategy="greedy", captions=1, candidates=0, rerank="none", score_weight=0.0)
        for reading, source, rows in (
            (Reading("photos", "path", "key"), "photos", PHOTOS),
            (Reading("vectors"), f"{made.backbone.dim}.npy", VECTORS),
        ):
            _, pieces = plan([str(folder / source)], str(folder / f"list-{number}"), made.backbone.dim, rows=rows)
            for decoding in (made.decoding, greedy):
                job = Job(str(folder / f"out-{number}-{time.monotonic()}"), "", "", reading, decoding, BATCH, "auto", DEVICE, threads)
                caption_piece(made, pieces[0], job)
                together.wait()
                began = time.perf_counter()
                found, errors = caption_piece(made, pieces[1], job)
                together.wait()
                assert (found, errors) == (rows, 0)
                told.put(((name, reading.kind, decoding.strategy), found, time.perf_counter() - began))


def rates(folder: Path, workers: int) -> dict[tuple[str, str, str], float]:
    """Rows a second of all workers together."""
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=worker, args=(folder, n, max(1, CORES // workers), together, told), daemon=True) for n in range(workers)]
    for process in processes:
        process.start()
    found: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    while sum(map(len, found.values())) < 8 * workers:
        with suppress(Empty):
            what, rows, seconds = told.get(timeout=5)
            found.setdefault(what, []).append((rows, seconds))
        if any(process.exitcode for process in processes):  # out of memory, say: the others would wait for it
            for process in processes:
                process.kill()
            break
    for process in processes:
        process.join()
    return {what: sum(rows for rows, _ in each) / max(seconds for _, seconds in each) for what, each in found.items() if len(each) == workers}


def main() -> None:
    counts = [int(count) for count in sys.argv[2:]] or [1, *(2**n for n in range(1, 12) if 2**n <= CORES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for inner in ("photos", "clip"):
            (folder / inner).mkdir()
        jpegs(folder / "photos", 2 * PHOTOS)
        clip(folder / "clip")
        for dim in (256, 512):
            np.save(folder / f"{dim}.npy", np.random.default_rng(0).normal(size=(2 * VECTORS, dim)).astype(np.float16))
        rows = []
        for count in counts:
            for what, rate in rates(folder, count).items():
                rows.append({"workers": count, "what": what, "rows_per_second": round(rate, 1)})
                print(f"{count} workers  {', '.join(what):<50} {rate:8.1f} rows/s", flush=True)
                if len(sys.argv) > 1:
                    Path(sys.argv[1]).write_text(json.dumps({"machine": machine(), "cores": CORES, "batch": BATCH, "rates": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
