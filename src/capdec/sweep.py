"""Train the same captioner at several settings, by default several noise levels, and draw what becomes of it.

    every combination of the values in `over` -> train -> score: on captioned photos where a dataset is given, else held-out siblings' log-probability

Each run is a captioner's folder of its own below `output`. A sweep that was cut off continues; a finished run is not done again. `best.toml` is the
recipe of the best setting, and says by what it was chosen. Seeds are repetitions: runs that differ in `training.seed` alone are one point.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from capdec import bootstrap, drawing, scoring
from capdec import recipe as recipes
from capdec.captioner import Captioner
from capdec.checkpoint import replacing, write_json
from capdec.errors import SettingError
from capdec.evaluate import evaluate
from capdec.protocols import Decoding, Predictions
from capdec.train import train

SEED = "training.seed"
COSINE = "bridges.0.target_cosine"
NOISE = ("std", "variance", "target_cosine", "scale")
COSINES = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.25, 0.15)
SIBLING = "siblings' log-probability a token"


def sweep(
    recipe: recipes.Recipe,
    output: str | Path,
    over: dict[str, Sequence[Any]] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    dataset: str | dict[str, Any] | None = None,
    metric: str = "CIDEr",
    decoding: Decoding | None = None,
    device: str = "cpu",
    partial: bool = False,
) -> list[dict[str, Any]]:
    """One entry a point, in order, as in sweep.json: {"settings", "runs": [folder ...], "siblings": [log-probability of a run ...], "value"}; where
    photos are given "low", "high" (over images and runs) and "each"; "std" and "target_cosine" where the first bridge has them. `over` maps keys of
    the recipe, dotted as in --set, to the values to try (default: target cosines of the first bridge); each is tried with every seed.

    What is tried of a noise (its std, its variance or its target cosine) takes the place of what the recipe says of it.

    Raises SettingError where `over` is empty or `metric` is none of coco_scores' figures, and for a dataset that cannot be read, before any training.
    """
    drawing.require()
    folder = Path(output)
    over = dict(over or {COSINE: COSINES})
    if not all(over.values()):
        raise SettingError(f"nothing to try for {', '.join(key for key, values in over.items() if not values)}: give --over KEY=[value, ...].")
    if dataset is not None:
        computed = scoring.score(scoring.build(("coco_scores",), None), Predictions({"": "a"}, {"": ["a"]}))
        if metric not in computed:
            raise SettingError(f"no figure is called {metric!r}. A sweep chooses by one of: {', '.join(computed)}.")
        scoring.read_references(scoring.open_references(dataset))
    recipe = _without_rivals(recipe, over)
    points: list[dict[str, Any]] = []
    for values in itertools.product(*over.values()):
        settings = dict(zip(over, values, strict=True))
        point: dict[str, Any] = {"settings": settings, "runs": [], "siblings": []}
        for seed in seeds:
            table = recipes.override(recipe, [f"{key}={json.dumps(value)}" for key, value in {**settings, SEED: seed}.items()])
            run = folder / _name({**settings, SEED: seed})
            captioner = _trained(table, run, folder / "embeddings", device)
            if dataset is not None:
                _evaluated(captioner, run / "evaluation", dataset, decoding, folder / "embeddings", partial)
            point["runs"].append(run.name)
            point["siblings"].append(_siblings(run))
            noise = captioner.bridges[0] if captioner.bridges else None
            point |= {name: round(value, 5) for name in ("std", "target_cosine") if (value := getattr(noise, name, None)) is not None}
        points.append({**point, **_figure(point, folder, metric if dataset is not None else None)})
        write_json(folder / "sweep.json", {"metric": metric if dataset else SIBLING, "points": points})
    best = max(points, key=lambda point: point["value"])
    chosen = {"by": "capdec sweep", "metric": metric if dataset else SIBLING, "pairs": dataset is not None, "on": dataset, "tried": len(points)}
    with replacing(folder / "best.toml") as temporary:
        winner = recipes.override(recipe, [f"{key}={json.dumps(value)}" for key, value in best["settings"].items()])
        temporary.write_text(recipes.dump({**winner, "chosen": chosen}), encoding="utf-8")
    _draw(folder / "sweep.svg", points, metric if dataset is not None else SIBLING)
    return points


def _without_rivals(recipe: recipes.Recipe, over: dict[str, Sequence[Any]]) -> recipes.Recipe:
    """The recipe without what it says of a noise in other terms than those that are tried."""
    result = json.loads(json.dumps(recipe))
    for key in over:
        kind, _, rest = key.partition(".")
        place, _, name = rest.partition(".")
        if kind == "bridges" and name in NOISE and place.isdigit() and int(place) < len(result.get("bridges", [])):
            bridge = result["bridges"][int(place)]
            result["bridges"][int(place)] = bridge if isinstance(bridge, str) else {k: v for k, v in bridge.items() if k not in NOISE}
    return result


def _trained(table: recipes.Recipe, run: Path, embeddings: Path, device: str) -> Captioner:
    """The run's captioner; trained where it is not finished. Runs of the same text share its embeddings."""
    if (run / "config.json").is_file() and _asked(run) == json.loads(json.dumps(table)):
        return Captioner.load(run, device)
    text = {key: table.get(key) for key in ("captions", "sources", "backbone", "start")}
    few = table.get("training", {}).get("captions")
    text |= {"at_most": few, "seed": table["training"]["seed"]} if few else {}
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:12]
    captioner = train(**table, output=run, device=device, embeddings=embeddings / digest)
    write_json(run / "asked.json", table)
    return captioner


def _asked(run: Path) -> Any:
    path = run / "asked.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _evaluated(captioner: Captioner, folder: Path, dataset: str | dict[str, Any], decoding: Decoding | None, embeddings: Path, partial: bool) -> None:
    """Scored where that was not done; the photos' embeddings are shared by all runs."""
    path = folder / "manifest.json"
    if path.is_file():
        manifest = json.loads(path.read_text(encoding="utf-8"))
        done = manifest["captioner"]["fingerprint"], manifest["decoding"], manifest["dataset"]["digest"]
        references = {key: example.captions for key, example in scoring.read_references(scoring.open_references(dataset)).items()}
        if done == (captioner.fingerprint, asdict(decoding or captioner.decoding), scoring.digest(references)):
            return
    of_what = hashlib.sha256(json.dumps(dataset, sort_keys=True).encode()).hexdigest()[:8]
    photos = embeddings / f"photos-{of_what}-{captioner.backbone.fingerprint}{f'-{captioner.regions}' if captioner.regions else ''}"
    evaluate(captioner, dataset, folder, baselines=(), decoding=decoding, metrics=("coco_scores",), embeddings=photos, partial=partial)


def _siblings(run: Path) -> float:
    held_out = json.loads((run / "scores.json").read_text(encoding="utf-8"))["log_prob_of_held_out"]
    return float(held_out.get("sibling", held_out.get("own", math.nan)))


def _figure(point: dict[str, Any], folder: Path, metric: str | None) -> dict[str, Any]:
    """The point's value over its runs; with photos, its interval over images and runs."""
    if metric is None:
        return {"value": round(fmean(point["siblings"]), 4)}
    figures = [scoring.read_evaluation(folder / run / "evaluation", ("coco_scores",))[1] for run in point["runs"]]
    value, (low, high) = bootstrap.mean_of_runs([found[metric] for found in figures])
    each = [round(float(found[metric].value or 0), 3) for found in figures]
    return {"value": round(value, 3), "low": round(low, 3), "high": round(high, 3), "each": each}


def _draw(path: Path, points: Sequence[dict[str, Any]], metric: str) -> None:
    """Against the noise where it is the noise that varies, and with what text alone would choose marked; else setting by setting."""
    low, high = ([point[key] for point in points] if key in points[0] else None for key in ("low", "high"))
    y = [point["value"] for point in points]
    noisy = all("std" in point for point in points) and len({point["target_cosine"] for point in points}) == len(points)
    text = max(range(len(points)), key=lambda place: fmean(points[place]["siblings"]))
    if noisy and len(points) > 1:
        order = sorted(range(len(points)), key=lambda place: points[place]["target_cosine"])
        x = [points[place]["target_cosine"] for place in order]
        low, high = ([values[place] for place in order] if values else None for values in (low, high))
        ticks = {points[place]["target_cosine"]: f"{points[place]['target_cosine']:.2f}\nstd {points[place]['std']:.3f}" for place in order}
        series = drawing.Series(metric, x, [y[place] for place in order], low, high, order.index(text), "text alone would choose this")
        drawing.curves(path, [series], f"{metric} by noise level", "target cosine, 1 = no noise", metric, ticks=ticks)
    else:
        names = [_name(point["settings"]).replace(",", "\n") or "as it is" for point in points]
        drawing.curves(
            path, [drawing.Series(metric, range(len(points)), y, low, high)], f"{metric} by setting", "", metric, ticks=dict(enumerate(names))
        )


def _name(settings: dict[str, Any]) -> str:
    """
    >>> _name({"bridges.0.target_cosine": 0.5, "captions": "text/coco.jsonl", "training.seed": 1})
    'target_cosine=0.5,captions=coco,seed=1'
    """
    return ",".join(f"{key.rpartition('.')[2]}={_shown(value)}" for key, value in settings.items())


def _shown(value: Any) -> str:
    inner = value.get("path", value) if isinstance(value, dict) else value
    if isinstance(inner, dict | list):
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    return Path(inner).stem if isinstance(inner, str) else str(inner)
