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
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from capdec import recipe as recipes
from capdec.captioner import Captioner
from capdec.checkpoint import replacing, write_json
from capdec.errors import SettingError
from capdec.evaluate import evaluate
from capdec.protocols import Dataset, Decoding
from capdec.train import train

SEED = "training.seed"
COSINE = "bridges.0.target_cosine"
COSINES = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.25, 0.15)
SIBLING = "siblings' log-probability a token"


def sweep(
    recipe: recipes.Recipe,
    output: str | Path,
    over: dict[str, Sequence[Any]] | None = None,
    *,
    dataset: Dataset | None = None,
    metric: str = "CIDEr",
    decoding: Decoding | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """One entry a point, in order: {"settings", "runs": [folder ...], "value", "each": [value of a seed ...], "std" and "target_cosine" where the first
    bridge has them}. `over` maps a recipe's keys, dotted as in --set, to the values to try (default: target cosines of the first bridge).

    Raises SettingError where `over` is empty or a metric is not among those that were computed.
    """
    folder = Path(output)
    over = dict(over or {COSINE: COSINES})
    if not all(over.values()):
        raise SettingError(f"nothing to try for {', '.join(key for key, values in over.items() if not values)}: give --over KEY=[value, ...].")
    varied = [key for key in over if key != SEED]
    seeds = over.pop(SEED, [recipe.get("training", {}).get("seed", 0)])
    points = []
    for values in itertools.product(*(over[key] for key in varied)):
        settings = dict(zip(varied, values, strict=True))
        point: dict[str, Any] = {"settings": settings, "runs": [], "each": []}
        for seed in seeds:
            table = recipes.override(recipe, [f"{key}={json.dumps(value)}" for key, value in {**settings, SEED: seed}.items()])
            run = folder / _name({**settings, SEED: seed})
            captioner = _trained(table, run, folder / "embeddings", device)
            point["runs"].append(run.name)
            point["each"].append(_value(captioner, run, dataset, metric, decoding))
            noise = captioner.bridges[0] if captioner.bridges else None
            point |= {name: round(getattr(noise, name), 5) for name in ("std", "target_cosine") if hasattr(noise, name)}
        point["value"] = round(fmean(point["each"]), 4)
        points.append(point)
        write_json(folder / "sweep.json", {"metric": metric if dataset else SIBLING, "points": points})
    best = max(points, key=lambda point: point["value"])
    chosen = {"by": "capdec sweep", "metric": metric if dataset else SIBLING, "pairs": dataset is not None, "tried": len(points)}
    with replacing(folder / "best.toml") as temporary:
        winner = recipes.override(recipe, [f"{key}={json.dumps(value)}" for key, value in best["settings"].items()])
        temporary.write_text(recipes.dump({**winner, "chosen": {**chosen, **({"on": dataset.name} if dataset and dataset.name else {})}}))
    return points


def _trained(table: recipes.Recipe, run: Path, embeddings: Path, device: str) -> Captioner:
    """The run's captioner; trained where it is not finished. Runs of the same text share its embeddings."""
    if (run / "config.json").is_file() and _asked(run) == json.loads(json.dumps(table)):
        return Captioner.load(run, device)
    text = {key: table.get(key) for key in ("captions", "sources", "backbone")}
    few = table.get("training", {}).get("captions")
    text |= {"at_most": few, "seed": table["training"]["seed"]} if few else {}
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:12]
    captioner = train(**table, output=run, device=device, embeddings=embeddings / digest)
    write_json(run / "asked.json", table)
    return captioner


def _asked(run: Path) -> Any:
    path = run / "asked.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _value(captioner: Captioner, run: Path, dataset: Dataset | None, metric: str, decoding: Decoding | None) -> float:
    if dataset is None:
        held_out = json.loads((run / "scores.json").read_text(encoding="utf-8"))["log_prob_of_held_out"]
        return float(held_out.get("sibling", held_out.get("own", math.nan)))
    raise NotImplementedError


def _name(settings: dict[str, Any]) -> str:
    """
    >>> _name({"bridges.0.target_cosine": 0.5, "captions": "text/coco.jsonl", "training.seed": 1})
    'target_cosine=0.5,captions=coco,seed=1'
    """
    words = []
    for key, value in settings.items():
        shown = value.get("path", value) if isinstance(value, dict) else value
        shown = Path(shown).stem if isinstance(shown, str) else shown
        text = str(shown) if isinstance(shown, str | int | float | bool) else hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
        words.append(f"{key.rpartition('.')[2]}={text}")
    return ",".join(words)
