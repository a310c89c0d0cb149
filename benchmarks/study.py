"""The study of docs/results.md: does training from text alone do here what its paper says? Runs are small (recipes/study.toml), with three seeds.

    python benchmarks/study.py DATA --output runs/study            trains and scores what is missing, then writes tables.md and the plots
    python benchmarks/study.py DATA --only noise,pairs             some of the sweeps; several processes may share the work
    python benchmarks/study.py DATA --fold runs/fold               the paired bound as well, on a mini that never saw the pairs it is trained on:
                                                                   `capdec pretrain` with the photos of train-000000 and train-000001 alone

DATA holds text/*.jsonl and flickr8k/{train,calibration,dev}-*.tar. Settings are looked at on calibration photos; dev is scored once for each run.
Other methods than CapDec's are compared by family.py. A cut-off study continues. Everything in it is `capdec sweep` and `capdec evaluate`, called
many times.
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
from capdec.evaluate import BASELINES, evaluate
from capdec.protocols import Score
from capdec.sweep import sweep

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
COSINE = "bridges.0.target_cosine"
LEVELS = (0.5, 1.0, 0.65, 0.25, 0.8, 0.35, 0.15)
TRAIN, UNSEEN = "../flickr8k/train-*.tar", "../flickr8k/train-00000[2-4].tar"
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
    "pairs_noise": ({**BASE, "paired_photos": TRAIN}, {COSINE: [0.65, 0.8]}),
    "corpus": (BASE, {"captions": [MORE_TEXT, OTHER_TEXT]}),
    "amount": (BASE, {"training.captions": [300, 1000, 3000, 10000]}),
    "siblings": ({**BASE, "sources": "siblings"}, {COSINE: [0.5, 1.0]}),
    "offset": (recipe.override({**BASE, "unpaired_photos": TRAIN}, ["bridges.0.modality_offset=true"]), {COSINE: [0.5, 1.0]}),
    "romantic": (styled("romantic"), AS_IT_IS),
    "humorous": (styled("humorous"), AS_IT_IS),
}


def of_the_fold(backbone: str) -> dict[str, tuple[recipe.Recipe, dict[str, Sequence[Any]]]]:
    """Text alone beside pairs, of photos that the backbone has not seen, as it will not have seen those that the captioner is for. Once more with
    three times the steps: a photo's embedding says less of its caption than the caption's own, and may take longer to learn from."""
    told: recipe.Recipe = {**BASE, "backbone": {"name": "mini", "folder": backbone}, "captions": {"path": UNSEEN, "dataset": DATASET}}
    sides: dict[str, tuple[recipe.Recipe, Sequence[float]]] = {
        "fold_text": (told, FOLD_TEXT),
        "fold_pairs": ({**told, "paired_photos": UNSEEN}, FOLD_PAIRS),
    }
    short = {name: (table, {COSINE: levels}) for name, (table, levels) in sides.items()}
    long = {f"{name}_longer": (recipe.override(table, ["training.steps=3000"]), {COSINE: levels[:2]}) for name, (table, levels) in sides.items()}
    return {**short, **long}


FOLD_TEXT, FOLD_PAIRS = (1.0, 0.65, 0.5), (1.0, 0.8, 0.65)


def photos(room: str) -> dict[str, Any]:
    return {"path": f"../flickr8k/{room}-000000.tar", "dataset": DATASET, "split": room}


def scored(captioner_folder: Path, folder: Path, dataset: dict[str, Any], judge: Any, **more: Any) -> None:
    """One evaluation, where it is not there yet. Embeddings of the photos are shared."""
    if not (folder / "manifest.json").is_file():
        captioner = Captioner.load(captioner_folder)
        of_what = f"{Path(dataset['path']).stem}-{captioner.backbone.fingerprint}{f'-{captioner.regions}' if captioner.regions else ''}"
        store = captioner_folder.parent.parent / "embeddings" / of_what
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
    """Rows of several runs each: mean over seeds, interval over images and seeds, and the paired difference to a row of comparison. Below stands what
    the rows were given, as their evaluations computed it."""

    def __init__(self, title: str, figures: Sequence[str] = ("CIDEr", "BLEU-4", "CLIPScore", "R@1", "unseen nouns")):
        self.figures = figures
        self.given: dict[str, list[str]] = {}
        self.after = ""
        self.lines = [f"### {title}", "", f"| captions | {' | '.join(figures)} | difference in {figures[0]} |", f"|---|{'---|' * (len(figures) + 1)}"]

    def add(self, name: str, folders: Sequence[Path], against: Sequence[Path] | None = None) -> float:
        runs = [read(folder) for folder in folders]
        cells = []
        for figure in self.figures:
            value, (low, high) = bootstrap.mean_of_runs([run[figure] for run in runs])
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        apart = ""
        if against is not None:
            apart = signed(bootstrap.difference([run[self.figures[0]] for run in runs], [read(folder)[self.figures[0]] for folder in against]))
        self.lines.append(f"| {name} | {' | '.join(cells)} | {apart} |")
        self.gave(name, folders[0])
        return float(bootstrap.mean_of_runs([run[self.figures[0]] for run in runs])[0])

    def gave(self, name: str, folder: Path, system: str = "itself") -> None:
        words = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["supervision"][system]
        self.given.setdefault(words, []).append(name)

    def __str__(self) -> str:
        said = [f"{'Each row' if len(self.given) == 1 else '; '.join(names)}: *{words}*." for words, names in self.given.items()]
        return "\n".join([*self.lines, "", "Given. " + " ".join(said), "", *([self.after, ""] if self.after else [])]) + "\n"


def signed(one: bootstrap.Difference) -> str:
    return f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"


_READ: dict[Path, dict[str, Score]] = {}


def read(folder: Path) -> dict[str, Score]:
    if folder not in _READ:
        _READ[folder] = scoring.read_evaluation(folder, ("coco_scores", "unseen_nouns"))[1]
    return _READ[folder]


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", default="runs/study", type=click.Path(file_okay=False, path_type=Path))
@click.option("--judge", default=str(ROOT / "judge"), help="The folder of a second mini, which scores captions and makes none.")
@click.option("--fold", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A mini aligned with two of the five train shards.")
@click.option("--only", help="Sweeps to train and score, with commas between them.  [default: all, and then the tables]")
def main(data: Path, output: Path, judge: str, fold: Path | None, only: str | None) -> None:
    folder = output.resolve()
    sweeps = SWEEPS | (of_the_fold(str(fold.resolve())) if fold else {})
    os.chdir(data / "text")  # recipes name their files from here
    judges = parts.build("backbones", {"name": "mini", "folder": judge})
    for name in only.split(",") if only else sweeps:
        table, over = sweeps[name]
        styles = name in ("romantic", "humorous")
        sweep(table, folder / name, over, seeds=SEEDS, dataset=None if styles else photos("calibration"))
        for run in sorted(path.parent for path in (folder / name).glob("*/config.json")):
            if styles:
                in_style(run, run / "dev", name, unpacked("dev", folder / "photos"), judges)
            else:
                scored(run, run / "dev", photos("dev"), judges)
    if not only:
        for style in ("romantic", "humorous"):  # the factual captioner, for comparison
            for seed in SEEDS:
                run = folder / "noise" / f"target_cosine=0.5,seed={seed}"
                in_style(run, run / f"dev-{style}", style, unpacked("dev", folder / "photos"), judges)
        best = folder / "noise" / "target_cosine=0.65,seed=0"
        scored(best, best / "dev-baselines", photos("dev"), judges, baselines=BASELINES, memory=BASE["captions"])
        tables(folder, cross_fitted=fold is not None)


def in_style(run: Path, folder: Path, style: str, images: Path, judge: Any) -> None:
    dataset = {"name": "jsonl", "path": f"flickrstyle_{style}_dev.jsonl", "images": str(images), "dataset": "flickr8k+flickrstyle10k", "split": "dev"}
    told = {"name": "style", "style": f"flickrstyle_{style}_train.jsonl", "plain": "flickr8k_train.jsonl"}
    scored(run, folder, dataset, judge, metrics=("coco_scores", "clip_score", told))


def runs(folder: Path, sweep_name: str, setting: str, kind: str = "dev") -> list[Path]:
    return [folder / sweep_name / f"{setting},seed={seed}" / kind for seed in SEEDS]


def tables(folder: Path, cross_fitted: bool) -> None:
    """tables.md and the plots, from what was scored."""
    none, chosen, base = (runs(folder, "noise", f"target_cosine={cosine}") for cosine in (1.0, 0.65, 0.5))
    written = []

    table = Table("The noise curve")
    curves: dict[str, dict[float, tuple[float, bootstrap.Interval]]] = {}
    for name, kind, levels in (("Gaussian", "noise", LEVELS), ("uniform, equal mean squared norm", "uniform", (0.5, 0.8, 0.25))):
        for cosine in sorted(levels, reverse=True):
            some = runs(folder, kind, f"target_cosine={cosine}")
            table.add(f"{name}, target cosine {cosine}", some, none)
            curves.setdefault(name, {})[cosine] = bootstrap.mean_of_runs([read(one)["CIDEr"] for one in some])
    written.append(table)

    table = Table("The scale of things")
    everything = json.loads((chosen[0].parent / "dev-baselines" / "scores.json").read_text(encoding="utf-8"))["systems"]
    for name in ("constant", "shuffled", "nearest", "person"):
        found = [everything[name][figure] for figure in table.figures]
        cells = [f"{one['value']:.1f}" + (f" [{one['low']:.1f}, {one['high']:.1f}]" if "low" in one else "") for one in found]
        table.lines.append(f"| {name} | {' | '.join(cells)} | |")
        table.gave(name, chosen[0].parent / "dev-baselines", name)
    table.add("no noise", none)
    table.add("noise, target cosine 0.65: chosen by calibration CIDEr, and by siblings on text alone", chosen, none)
    table.add("told from photos: pairs, no noise (in-sample)", runs(folder, "pairs", "backbone=mini"), none)
    paired = [runs(folder, "pairs_noise", f"target_cosine={cosine}") for cosine in (0.8, 0.65)]
    for cosine, some in zip((0.8, 0.65), paired, strict=True):
        table.add(f"told from photos: pairs, noise {cosine} (in-sample)", some, none)
    written.append(table)
    if cross_fitted:
        written += [fold_table(folder, longer=False), fold_table(folder, longer=True)]

    table = Table("Which text")
    table.add("Flickr8k, 25,000 captions", base)
    table.add("Flickr30k and Flickr8k, 135,819 captions", runs(folder, "corpus", "captions=flickr_all_train"), base)
    table.add("COCO, 53,228 captions: another domain", runs(folder, "corpus", "captions=coco_sample"), base)
    written.append(table)

    table = Table("How much text")
    amounts = {}
    for amount in (300, 1000, 3000, 10000):
        some = runs(folder, "amount", f"captions={amount}")
        table.add(f"{amount:,} captions", some, base)
        amounts[amount] = bootstrap.mean_of_runs([read(one)["CIDEr"] for one in some])
    for amount, some in ((25_000, base), (135_819, runs(folder, "corpus", "captions=flickr_all_train"))):
        table.add(f"{amount:,} captions", some, base)
        amounts[amount] = bootstrap.mean_of_runs([read(one)["CIDEr"] for one in some])
    written.append(table)

    table = Table("Told from siblings, and the modality offset")
    for cosine, against in ((1.0, none), (0.5, base)):
        words = "no noise" if cosine == 1 else f"target cosine {cosine}"
        table.add(f"{words}, told from itself", against)
        table.add(f"{words}, told from siblings", runs(folder, "siblings", f"target_cosine={cosine}"), against)
        table.add(f"{words}, with the modality offset", runs(folder, "offset", f"target_cosine={cosine}"), against)
    written.append(table)

    for style in ("romantic", "humorous"):
        table = Table(f"Style: {style}", ("in style", "CIDEr", "BLEU-1", "CLIPScore", "R@1", "R@5"))
        plain = runs(folder, "noise", "target_cosine=0.5", f"dev-{style}")
        table.add("factual captioner", plain)
        table.add(f"trained on {style} text", runs(folder, style, "backbone=mini"), plain)
        written.append(table)

    with replacing(folder / "tables.md") as temporary:
        temporary.write_text("".join(map(str, written)), encoding="utf-8")
    draw(folder, curves, amounts, {"nearest caption": everything["nearest"]["CIDEr"]["value"]})


def fold_table(folder: Path, longer: bool) -> Table:
    """The bound that a share can be told of: pairs the backbone has not seen. Each side's noise is the one that calibration photos liked best."""
    table = Table(f"The paired bound, cross-fitted{', three times the steps' if longer else ''}")
    none, best = runs(folder, "fold_text_longer" if longer else "fold_text", "target_cosine=1.0"), {}
    for name, sweep_name in (("text alone", "fold_text"), ("pairs", "fold_pairs")):
        sweep_name += "_longer" if longer else ""
        points = json.loads((folder / sweep_name / "sweep.json").read_text(encoding="utf-8"))["points"]
        liked = max(points, key=lambda point: float(point["value"]))["settings"][COSINE]
        for cosine in (point["settings"][COSINE] for point in points):
            some = runs(folder, sweep_name, f"target_cosine={cosine}")
            noise = "no noise" if cosine == 1 else f"noise, target cosine {cosine}"
            table.add(f"{name}, {noise}{' (best on calibration)' if cosine == liked else ''}", some, none)
        best[name] = runs(folder, sweep_name, f"target_cosine={liked}")
    without, told, bound = ([read(one)["CIDEr"] for one in some] for some in (none, best["text alone"], best["pairs"]))
    way, ahead = bootstrap.difference(bound, without), bootstrap.difference(told, bound)
    if way.low > 0:
        low, middle, high = (bootstrap.draws_of_runs(some) for some in (without, told, bound))
        share, bounds = 100 * (way.value + ahead.value) / way.value, bootstrap.interval(100 * (middle - low) / (high - low))
        said = f"Of the way from no noise to pairs, text alone goes {share:.0f} % [{bounds.low:.0f}, {bounds.high:.0f}]."
    else:
        said = f"Pairs are not better than no noise ({signed(way)}), so no share can be told. Text alone is {signed(ahead)} from pairs."
    table.after = said
    return table


def draw(folder: Path, noise: dict[str, Any], amounts: dict[int, Any], lines: dict[str, float]) -> None:
    series = []
    for name, points in noise.items():
        x = sorted(points)
        bounds = [points[one][1] for one in x]
        mark = x.index(0.65) if 0.65 in x else None
        said = "text alone chooses this"
        series.append(drawing.Series(name, x, [points[one][0] for one in x], [b.low for b in bounds], [b.high for b in bounds], mark, said))
    levels = {one: f"{one:.2f}\nstd {((1 / one**2 - 1) / 256) ** 0.5:.3f}" for one in sorted(noise["Gaussian"])}
    title = "CIDEr on dev by noise level, with 95 % intervals over photos and seeds"
    drawing.curves(folder / "noise.svg", series, title, "target cosine (1 = no noise) and std", "CIDEr", lines, levels)
    x = sorted(amounts)
    bounds = [amounts[one][1] for one in x]
    growing = drawing.Series("captions", x, [amounts[one][0] for one in x], [b.low for b in bounds], [b.high for b in bounds])
    ticks = {one: f"{one:,}" for one in x}
    drawing.curves(folder / "text.svg", [growing], "CIDEr on dev by amount of text", "captions learned from", "CIDEr", {}, ticks, log=True)


if __name__ == "__main__":
    main()
