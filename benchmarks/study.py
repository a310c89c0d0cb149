"""The study of docs/results.md: does training from text alone do here what its paper says? Every run is small (recipes/study.toml) and has three seeds.

    python benchmarks/study.py DATA --output runs/study            trains and scores what is missing, then writes tables.md and the plots
    python benchmarks/study.py DATA --only noise,pairs             some of the sweeps; several processes may share the work

DATA holds text/*.jsonl and flickr8k/{train,calibration,dev}-*.tar. Settings are looked at on calibration photos; dev is scored once for each run.
A cut-off study continues. Everything in it is `capdec sweep` and `capdec evaluate`, called many times.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from capdec import bootstrap, drawing, parts, recipe, scoring
from capdec.captioner import Captioner
from capdec.checkpoint import replacing
from capdec.evaluate import evaluate
from capdec.protocols import Score
from capdec.sweep import sweep

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
COSINE = "bridges.0.target_cosine"
LEVELS = (0.5, 1.0, 0.65, 0.25, 0.8, 0.35, 0.15)
TRAIN = "../flickr8k/train-*.tar"
BASE = recipe.read(ROOT / "recipes" / "study.toml")
AS_IT_IS: dict[str, Sequence[Any]] = {"backbone": ["mini"]}
DATASET = "flickr8k"


def styled(style: str) -> recipe.Recipe:
    return {**BASE, "captions": {"name": "jsonl", "path": f"flickrstyle_{style}_train.jsonl", "dataset": "flickr8k+flickrstyle10k"}}


MORE_TEXT = {"name": "jsonl", "path": "flickr_all_train.jsonl", "dataset": "flickr30k+flickr8k"}
OTHER_TEXT = {"name": "jsonl", "path": "coco_sample.jsonl", "dataset": "coco"}
SWEEPS: dict[str, tuple[recipe.Recipe, dict[str, Sequence[Any]]]] = {
    "noise": (BASE, {COSINE: LEVELS}),
    "uniform": (recipe.override(BASE, ["bridges.0.distribution=uniform"]), {COSINE: [0.5, 0.8, 0.25]}),
    "pairs": ({**BASE, "bridges": [], "paired_photos": TRAIN}, AS_IT_IS),
    "corpus": (BASE, {"captions": [MORE_TEXT, OTHER_TEXT]}),
    "amount": (BASE, {"training.captions": [300, 1000, 3000, 10000]}),
    "siblings": ({**BASE, "sources": "siblings"}, {COSINE: [0.5, 1.0]}),
    "offset": (recipe.override({**BASE, "unpaired_photos": TRAIN}, ["bridges.0.modality_offset=true"]), {COSINE: [0.5, 1.0]}),
    "romantic": (styled("romantic"), AS_IT_IS),
    "humorous": (styled("humorous"), AS_IT_IS),
}


def photos(room: str) -> dict[str, Any]:
    return {"path": f"../flickr8k/{room}-000000.tar", "dataset": DATASET, "split": room}


def scored(captioner_folder: Path, folder: Path, dataset: dict[str, Any], judge: Any, **more: Any) -> None:
    """One evaluation, where it is not there yet. Embeddings of the photos are shared."""
    if not (folder / "manifest.json").is_file():
        captioner = Captioner.load(captioner_folder)
        store = captioner_folder.parent.parent / "embeddings" / f"{Path(dataset['path']).stem}-{captioner.backbone.fingerprint}"
        settings = {"baselines": (), "metrics": ("coco_scores", "clip_score", "unseen_nouns", "diversity"), **more}
        evaluate(captioner, dataset, folder, judge=judge, embeddings=store, **settings)


def unpacked(room: str, folder: Path) -> Path:
    """The photos of a room as files, so that other captions can be joined to them."""
    from capdec.corpus import open_dataset

    for example in open_dataset(photos(room)):
        path = folder / room / f"{example.image_id}.png"
        if example.open_image is not None and not path.is_file():
            with replacing(path) as temporary:
                example.open_image().save(temporary, "PNG")
    return folder / room


class Table:
    """Rows of several runs each: mean over seeds, interval over images and seeds, and the paired difference to a row of comparison."""

    def __init__(self, title: str, figures: Sequence[str] = ("CIDEr", "BLEU-4", "CLIPScore", "R@1", "unseen nouns")):
        self.figures = figures
        self.lines = [f"### {title}", "", f"| captions | {' | '.join(figures)} | difference in {figures[0]} |", f"|---|{'---|' * (len(figures) + 1)}"]

    def add(self, name: str, folders: Sequence[Path], against: Sequence[Path] | None = None) -> float:
        runs = [read(folder) for folder in folders]
        cells = []
        for figure in self.figures:
            value, (low, high) = bootstrap.mean_of_runs([run[figure] for run in runs])
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        apart = ""
        if against is not None:
            one = bootstrap.difference([run[self.figures[0]] for run in runs], [read(folder)[self.figures[0]] for folder in against])
            apart = f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"
        self.lines.append(f"| {name} | {' | '.join(cells)} | {apart} |")
        return float(bootstrap.mean_of_runs([run[self.figures[0]] for run in runs])[0])

    def __str__(self) -> str:
        return "\n".join([*self.lines, "", ""])


_READ: dict[Path, dict[str, Score]] = {}


def read(folder: Path) -> dict[str, Score]:
    if folder not in _READ:
        _READ[folder] = scoring.read_evaluation(folder, ("coco_scores", "unseen_nouns"))[1]
    return _READ[folder]
