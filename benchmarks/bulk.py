"""What a worker of `capdec bulk` does in a second, by batch: photos of 640 x 480 and stored embeddings, with the embedded captioner and with one of
GPT-2's size, on whatever device there is. docs/scaling.md reckons with it.

    python benchmarks/bulk.py [RESULT.json [THREADS]]
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from decoding import decoder
from encoders import clip, jpegs
from side_by_side import DEVICE, machine

from capdec import Captioner, parts
from capdec.bulk import Job, caption_piece
from capdec.pieces import Reading, plan

PHOTOS = 2048 if DEVICE == "cuda" else 256
VECTORS = 16_384 if DEVICE == "cuda" else 256


def large(folder: Path) -> Captioner:
    """CLIP ViT-B/32 and GPT-2 small, with random weights."""
    clip(folder)
    spec = {"backbone": {"name": "huggingface", "model": str(folder)}, "bridges": [], "decoder": "prefix_lm"}
    backbone = parts.build("backbones", spec["backbone"], device=DEVICE)
    made = Captioner(backbone, [], decoder(), spec)
    made.compute_in("auto")
    return made


def rate(captioner: Captioner, source: str, reading: Reading, folder: Path, batch: int, threads: int) -> float:
    """Rows a second of the second half: the first warms up."""
    _, pieces = plan([source], str(folder / "list.parquet"), captioner.backbone.dim, rows=(VECTORS if reading.kind == "vectors" else PHOTOS) // 2)
    job = Job(str(folder / "out"), "", "", reading, captioner.decoding, batch, "auto", DEVICE, threads)
    taken = []
    for piece in pieces[:2]:
        (folder / "out" / "captions" / f"{piece.number:06d}.parquet").unlink(missing_ok=True)
        start = time.perf_counter()
        rows, errors = caption_piece(captioner, piece, job)
        assert rows == piece.rows and not errors
        taken.append(rows / (time.perf_counter() - start))
    return taken[-1]


def main() -> None:
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else torch.get_num_threads()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        jpegs(folder / "photos", PHOTOS)
        for what, captioner in (("embedded", Captioner.load(device=DEVICE, dtype="auto")), ("ViT-B/32 and GPT-2 small", large(folder / "clip"))):
            vectors = np.random.default_rng(0).normal(size=(VECTORS, captioner.backbone.dim)).astype(np.float16)
            np.save(folder / "vectors.npy", vectors)
            for decoding in (
                captioner.decoding,
                replace(captioner.decoding, strategy="greedy", captions=1, candidates=0, rerank="none", score_weight=0),
            ):
                captioner.decoding = decoding
                for source, reading in ((folder / "photos", Reading("photos", "path", "key")), (folder / "vectors.npy", Reading("vectors"))):
                    for batch in (32, 128, 512) if DEVICE == "cuda" else (32, 128):
                        found = rate(captioner, str(source), reading, folder, batch, threads)
                        results.append({"captioner": what, "search": decoding.strategy, "of": reading.kind, "batch": batch, "rate": round(found, 1)})
                        print(results[-1], flush=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({"machine": machine(), "device": DEVICE, "threads": threads, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
