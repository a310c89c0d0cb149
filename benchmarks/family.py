"""The family of docs/results.md: every method of training from text, at one size, with one budget, beside the same captioner with the method's own
mechanism switched off. Three seeds each; recipes/study.toml with one thing changed.

    python benchmarks/family.py DATA --output runs/family          trains and scores what is missing, then writes family.md
    python benchmarks/family.py DATA --only close,entity           some of the methods; several processes may share the work

DATA holds text/*.jsonl and flickr8k/{train,calibration,dev}-*.tar. Nothing is tuned for any of them: the noise is what text alone chooses for CapDec
(target cosine 0.65), and what else a method has to set is its paper's, or is chosen by its own `fit` on text. Dev is scored once for each run.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import click
from study import AS_IT_IS, BASE, ROOT, SEEDS, TRAIN, photos, scored

from capdec import parts, recipe
from capdec.sweep import sweep

NOISE = {"name": "gaussian_noise", "target_cosine": 0.65}
PROJECTION = {"name": "memory_projection"}
LEARNED = {**PROJECTION, "in_training": True}
NEIGHBOURS = {"name": "retrieval", "count": 5, "target_cosine": 0.6}
ENTITIES = {"name": "entity_prompt"}
SHIFT = {"name": "mean_shift"}


class Method(NamedTuple):
    """`without` is the method's row without its mechanism."""

    said: str
    recipe: recipe.Recipe
    without: str


def of(*bridges: dict[str, Any], **more: Any) -> recipe.Recipe:
    return {**BASE, "bridges": list(bridges), **more}


METHODS: dict[str, Method] = {
    "none": Method("text embeddings as they are", of(), ""),
    "capdec": Method("CapDec: noise", of(NOISE), "none"),
    "decap": Method("DeCap: projection on the captions", of(PROJECTION), "none"),
    "learned": Method("noise, then projection, in training too", of(NOISE, LEARNED), "capdec"),
    "entity": Method("ViECap, IFCap: entity prompt, noise", of(ENTITIES, NOISE), "capdec"),
    "neighbours": Method("IFCap: five neighbours as further rows, noise", of(NOISE, NEIGHBOURS), "capdec"),
    "c3": Method("C3: mean shift, noise", of(SHIFT, NOISE, unpaired_photos=TRAIN), "capdec"),
    "close_pairs": Method(
        "CLOSE: noise of pairs' covariance", of({"name": "covariance_noise", "differences": "pairs"}, unpaired_photos=TRAIN), "none"
    ),
    "close_siblings": Method("noise of siblings' covariance", of({"name": "covariance_noise", "target_cosine": 0.65}), "none"),
    "close_targets": Method("CLOSE: sibling targets, noise", of(NOISE, sources="siblings"), "capdec"),
    "knight": Method("Knight: five neighbours in place of the caption", of({**NEIGHBOURS, "replace": True}), "none"),
    "shift": Method("C3's mean shift alone", of(SHIFT, unpaired_photos=TRAIN), "none"),
    "learned_entity": Method("entity prompt, noise, projection in training", of(ENTITIES, NOISE, LEARNED), "learned"),
    "learned_neighbours": Method("noise, projection in training, neighbours", of(NOISE, LEARNED, NEIGHBOURS), "learned"),
}


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", default="runs/family", type=click.Path(file_okay=False, path_type=Path))
@click.option("--judge", default=str(ROOT / "judge"), help="The folder of a second mini, which scores captions and makes none.")
@click.option("--only", help="Methods to train and score, with commas between them.  [default: all, and then the table]")
def main(data: Path, output: Path, judge: str, only: str | None) -> None:
    folder = output.resolve()
    os.chdir(data / "text")  # recipes name their files from here
    judges = parts.build("backbones", {"name": "mini", "folder": judge})
    for name in only.split(",") if only else METHODS:
        sweep(METHODS[name].recipe, folder / name, AS_IT_IS, seeds=SEEDS, dataset=photos("calibration"))
        for run in sorted(path.parent for path in (folder / name).glob("*/config.json")):
            scored(run, run / "dev", photos("dev"), judges)


if __name__ == "__main__":
    main()
