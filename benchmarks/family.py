"""The family of docs/results.md: every method of training from text, at one size, with one budget, beside the same captioner with the method's own
mechanism switched off. Three seeds each; recipes/study.toml with one thing changed.

    python benchmarks/family.py DATA --output runs/family          trains and scores what is missing, then writes family.md
    python benchmarks/family.py DATA --only close,entity           some of the methods; several processes may share the work

DATA holds text/*.jsonl and flickr8k/{train,calibration,dev}-*.tar. Nothing is tuned for any of them: the noise is what text alone chooses for CapDec
(target cosine 0.65), and what else a method has to set is its paper's, or is chosen by its own `fit` on text. Dev is scored once for each run.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
from study import AS_IT_IS, BASE, ROOT, SEEDS, TRAIN, photos, scored

from capdec import parts, recipe
from capdec.captioner import Captioner
from capdec.checkpoint import write_json
from capdec.refine import refine
from capdec.sweep import sweep

NOISE = {"name": "gaussian_noise", "target_cosine": 0.65}
PROJECTION = {"name": "memory_projection"}
LEARNED = {**PROJECTION, "in_training": True}
NEIGHBOURS = {"name": "retrieval", "count": 5, "target_cosine": 0.6}
ENTITIES = {"name": "entity_prompt"}
SHIFT = {"name": "mean_shift"}


class Method(NamedTuple):
    """A row of the table, and the row without its mechanism. It is trained by a recipe; or refined from another row's captioner, with photos or
    without; or it is another row's captioner with settings of its first bridge changed, or decoding otherwise."""

    said: str
    recipe: recipe.Recipe | None
    without: str
    base: str = ""
    refining: dict[str, Any] | None = None
    photos: str | None = None
    bridge: dict[str, Any] | None = None
    decoding: dict[str, Any] | None = None


RUN = "backbone=mini,seed={}"
WORDS = "words/" + RUN.format(0)
FROZEN = {**BASE["decoder"], "start": WORDS, "frozen": True}  # `start` is completed by `main`
ATTENTION = {"mapper": "attention", "mapper_layers": 1, "prefix": 8}
REGIONS = {"name": "region_noise", "target_cosine": 0.65}
REFINING: dict[str, Any] = {"steps": 150}
BEST_OF = {"captions": 5}


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
    "words": Method("a language model alone", of(decoder={**BASE["decoder"], "mapper": "constant"}), ""),
    "frozen": Method("noise, frozen language model", of(NOISE, decoder=FROZEN), "capdec"),
    "maccap": Method("MacCap: noisy copies, regions, frozen language model", of(REGIONS, decoder={**FROZEN, **ATTENTION}), "maccap_global"),
    "maccap_global": Method("the same, its global embedding in place of regions", None, "frozen", "maccap", bridge={"regions": 0}),
    "maccap_clip": Method("MacCap, best of five by CLIP", None, "maccap", "maccap", decoding={**BEST_OF, "rerank": "clip"}),
    "cgtgan": Method("CgT-GAN: refined on photos", None, "none", "none", REFINING, TRAIN),
    "cgtgan_text": Method("CgT-GAN: refined on noised text", None, "none", "none", REFINING),
    "capdec_clip": Method("noise, best of five by CLIP", None, "capdec", "capdec", decoding={**BEST_OF, "rerank": "clip"}),
    "capdec_consensus": Method("noise, best of five by consensus", None, "capdec", "capdec", decoding={**BEST_OF, "rerank": "consensus"}),
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
        method = METHODS[name]
        if method.recipe is not None:
            table = json.loads(json.dumps(method.recipe).replace(WORDS, str(folder / WORDS)))
            sweep(table, folder / name, AS_IT_IS, seeds=SEEDS if name != "words" else SEEDS[:1], dataset=photos("calibration"))
        for seed in SEEDS:
            run = folder / name / RUN.format(seed)
            if method.refining is not None and not (run / "config.json").is_file():
                plan = {**method.refining, "seed": seed}
                shots = photos_of(method.photos) if method.photos else None
                refine(folder / method.base / run.name, BASE["captions"], run, photos=shots, refining=plan, embeddings=folder / "text")
            if method.bridge is not None and not (run / "config.json").is_file():
                changed(folder / method.base / run.name, run, method.bridge)
            made = run if (run / "config.json").is_file() else folder / method.base / run.name
            if name != "words":
                decoding = replace(Captioner.load(made).decoding, **method.decoding or {})
                for room, place in (("calibration", "evaluation"), ("dev", "dev")):
                    scored(made, run / place, photos(room), judges, decoding=decoding)


def photos_of(path: str) -> dict[str, Any]:
    return {"path": path, "dataset": "flickr8k", "split": "train"}


def changed(source: Path, folder: Path, bridge: dict[str, Any]) -> None:
    """The same captioner with other settings of its first bridge."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("evaluation", "dev", "training", "embeddings"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["bridges"][0] |= bridge
    write_json(folder / "config.json", config)


if __name__ == "__main__":
    main()
