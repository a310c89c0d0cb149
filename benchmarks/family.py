"""The family of docs/results.md: every method of training from text, at one size, with one budget, beside the same captioner with the method's own
mechanism switched off. Three seeds each; recipes/study.toml with one thing changed.

    python benchmarks/family.py DATA --output runs/family          trains and scores what is missing, measures costs, then writes family.md
    python benchmarks/family.py DATA --only entity,maccap          some of the methods, no table; several processes may share the work

DATA holds text/*.jsonl and flickr8k/{train,calibration,dev}-*.tar. Nothing is tuned: the noise is what text alone chooses for CapDec
(target cosine 0.65), and what else a method has to set is its paper's, or is chosen by its own `fit` on text. Dev is scored once for each run.
Two exceptions, seen on calibration: the learning rate of CgT-GAN's stage, and the norm in MacCap's mapper.
"""

import itertools
import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
from study import AS_IT_IS, BASE, ROOT, SEEDS, TRAIN, photos, read, scored, signed

from capdec import bootstrap, parts, recipe
from capdec.captioner import Captioner
from capdec.checkpoint import replacing, write_json
from capdec.corpus import encode_photos, open_dataset, read_pairs
from capdec.protocols import Decoding, Score
from capdec.refine import refine
from capdec.sweep import sweep
from capdec.train import train

NOISE = {"name": "gaussian_noise", "target_cosine": 0.65}
PROJECTION = {"name": "memory_projection"}
LEARNED = {**PROJECTION, "in_training": True}
NEIGHBOURS = {"name": "retrieval", "count": 5, "target_cosine": 0.6}
ENTITIES = {"name": "entity_prompt"}
SHIFT = {"name": "mean_shift"}


class Method(NamedTuple):
    """A row of the table, and the row without its mechanism. It is trained by a recipe; or refined from another row's captioner, with photos or
    without; or it is another row's captioner with settings of a bridge changed, or decoding otherwise."""

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
BEST_OF = {"candidates": 5}
BY_BOTH = {**BEST_OF, "rerank": "clip", "score_weight": 0.5}
TOLD = {**BEST_OF, "rerank": "neighbours"}


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
    "words": Method("a language model alone", of(decoder={**BASE["decoder"], "mapper": "constant", "prefix": 8}), ""),
    "maccap": Method("MacCap: noisy copies, regions, frozen language model", of(REGIONS, decoder={**FROZEN, **ATTENTION}), "maccap_global"),
    "maccap_global": Method("the same, its global embedding in place of regions", None, "capdec", "maccap", bridge={"regions": 0}),
    "copies": Method("MacCap's copies and regions, language model trained", of(REGIONS, decoder={**BASE["decoder"], **ATTENTION}), "copies_global"),
    "copies_global": Method("the same, its global embedding in place of regions", None, "capdec", "copies", bridge={"regions": 0}),
    "maccap_clip": Method("MacCap, best of five by CLIP", None, "maccap", "maccap", decoding={**BEST_OF, "rerank": "clip"}),
    "cgtgan": Method("CgT-GAN: refined on photos", None, "none", "none", REFINING, TRAIN),
    "cgtgan_text": Method("CgT-GAN: refined on noised text", None, "none", "none", REFINING),
    "capdec_clip": Method("noise, best of five by CLIP", None, "capdec", "capdec", decoding={**BEST_OF, "rerank": "clip"}),
    "capdec_clip_score": Method("noise, best of five by CLIP and score", None, "capdec", "capdec", decoding=BY_BOTH),
    "capdec_consensus": Method("noise, best of five by consensus", None, "capdec", "capdec", decoding={**BEST_OF, "rerank": "consensus"}),
    "decap_told": Method("DeCap, best of five by the memory's captions", None, "decap", "decap", bridge={"keep_texts": True}, decoding=TOLD),
    "learned_told": Method(
        "noise, projection in training, best of five by the memory's captions", None, "learned", "learned", bridge={"keep_texts": True}, decoding=TOLD
    ),
    "learned_both": Method("noise, projection in training, best of five by CLIP and score", None, "learned", "learned", decoding=BY_BOTH),
    "decap_both": Method("DeCap, best of five by CLIP and score", None, "decap", "decap", decoding=BY_BOTH),
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

    if not only:
        if not (folder / "costs.json").is_file():
            write_json(folder / "costs.json", costs(folder))
        with replacing(folder / "family.md") as temporary:
            temporary.write_text(written(folder), encoding="utf-8")


FIGURES = ("CIDEr", "BLEU-4", "CLIPScore", "R@1", "unseen nouns")


def written(folder: Path) -> str:
    """The table: means over seeds, intervals over photos and seeds, paired differences in CIDEr, and costs beside CapDec's."""
    spent = json.loads((folder / "costs.json").read_text(encoding="utf-8"))
    head = ("method", *FIGURES, "its mechanism off", "difference to that", "to CapDec", "training", "captioning")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    given: dict[str, list[str]] = {}
    for name, method in scored_methods(folder).items():
        runs = [read(run) for run in scores_of(folder, name)]
        cells = [method.said]
        for figure in FIGURES:
            value, (low, high) = bootstrap.mean_of_runs([run[figure] for run in runs])
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        cells.append(METHODS[method.without].said if method.without else "")
        for other in (method.without, "capdec" if name != "capdec" else ""):
            cells.append(signed(bootstrap.difference(of_cider(runs), of_cider([read(run) for run in scores_of(folder, other)]))) if other else "")
        cells += [f"{spent[name][what] / spent['capdec'][what]:.1f}" for what in ("training", "captioning")]
        lines.append(f"| {' | '.join(cells)} |")
        words = json.loads((scores_of(folder, name)[0] / "manifest.json").read_text(encoding="utf-8"))["supervision"]["itself"]
        given.setdefault(words, []).append(method.said)
    said = "\n".join(f"- {'; '.join(names)}: *{words}*" for words, names in given.items())
    return "\n".join([*lines, "", "Given:", "", said, ""])


def scored_methods(folder: Path) -> dict[str, Method]:
    """Those of which every seed was scored."""
    done = {name: all((run / "manifest.json").is_file() for run in scores_of(folder, name)) for name in METHODS}
    return {name: method for name, method in METHODS.items() if done[name] and (not method.without or done[method.without])}


def scores_of(folder: Path, name: str) -> list[Path]:
    return [folder / name / RUN.format(seed) / "dev" for seed in SEEDS]


def of_cider(runs: list[dict[str, Score]]) -> list[Score]:
    return [run["CIDEr"] for run in runs]


def costs(folder: Path, steps: int = 20, rounds: int = 3, count: int = 64) -> dict[str, dict[str, float]]:
    """Seconds of a whole training, from the median of some steps; and of captioning a photo from its embedding: the least of several rounds, in each
    of which every method has its turn. One after another, in one process: run it on a quiet machine."""
    methods = scored_methods(folder)
    made = {name: loaded(folder, name) for name in methods}
    seen = [example.open_image() for example in itertools.islice(open_dataset(photos("calibration")), count) if example.open_image]
    captioning = dict.fromkeys(made, math.inf)
    for _ in range(rounds):
        for name, (captioner, decoding) in made.items():
            regions = encode_photos(captioner.backbone, seen, captioner.regions)
            begun = time.perf_counter()
            captioner.caption_embeddings(regions, decoding)
            captioning[name] = min(captioning[name], (time.perf_counter() - begun) / count)
    training: dict[str, float] = {}
    for name, method in {"words": METHODS["words"], **methods}.items():
        with tempfile.TemporaryDirectory() as trial:
            if method.recipe is not None:
                table = json.loads(json.dumps(method.recipe).replace(WORDS, str(folder / WORDS)))
                table["training"] = {**table["training"], "steps": steps, "evaluate_every": steps}
                train(**table, output=trial, embeddings=folder / "text")
                before = training["words"] if "start" in table["decoder"] else 0.0  # the language model is trained too, once
                training[name] = before + per_step(Path(trial) / "training") * BASE["training"]["steps"]
            elif method.refining is not None:
                plan, shots = {**method.refining, "steps": steps // 2}, photos_of(method.photos) if method.photos else None
                run = folder / method.base / RUN.format(0)
                refine(run, BASE["captions"], trial, photos=shots, refining=plan, embeddings=folder / "text")
                training[name] = training[method.base] + per_step(Path(trial) / "refining") * method.refining["steps"]
            else:
                training[name] = training[method.base]
    return {name: {"training": training[name], "captioning": captioning[name]} for name in made}


def loaded(folder: Path, name: str) -> tuple[Captioner, Decoding]:
    method, run = METHODS[name], folder / name / RUN.format(0)
    captioner = Captioner.load(run if (run / "config.json").is_file() else folder / method.base / run.name)
    return captioner, replace(captioner.decoding, **method.decoding or {})


def per_step(folder: Path) -> float:
    times = [json.loads(line)["time"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def photos_of(path: str) -> dict[str, Any]:
    return {"path": path, "dataset": "flickr8k", "split": "train"}


def changed(source: Path, folder: Path, bridge: dict[str, Any]) -> None:
    """The same captioner with other settings of the bridge that has a memory, else of the first. Texts to be kept are those of the corpus."""
    captioner = Captioner.load(source)
    place = next((place for place, one in enumerate(captioner.bridges) if hasattr(one, "memory")), 0)
    spec = {**captioner.spec["bridges"][place], **bridge}
    made = parts.build("bridges", spec, dim=captioner.backbone.dim)
    if "keep_texts" in bridge:
        made.memory.rows, made.memory.texts = captioner.memories[0].rows, read_pairs(open_dataset(BASE["captions"])).targets
    captioner.bridges[place], captioner.spec["bridges"][place] = made, spec
    captioner.save(folder)


if __name__ == "__main__":
    main()
