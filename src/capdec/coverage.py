"""What a captioner's confidence is worth, on the captions of an evaluation: how good are those of which it is surest, when it may leave some out?

    coverage    the share of photos that get a caption: the surest first (Geifman and El-Yaniv 2017)
    quality     the figures of these captions; CIDEr's idf stays that of the whole set, and R@1 is among all its photos
    right       names nothing that no reference names: what confidence is the probability of
    AURC        the share wrong, on the mean over all coverages

Beside confidence stand the order by score alone, no order (the whole set's figures at every coverage), and the best there could be (what is right
before what is wrong). Intervals are over images.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from capdec import bootstrap, confidence, drawing, scoring
from capdec.checkpoint import write_json
from capdec.errors import DataError
from capdec.protocols import Score

COVERAGES = (1.0, 0.8, 0.6, 0.4, 0.2)
SHOWN = ("CIDEr", "unseen nouns", "captions with unseen nouns", "R@1", "length")


def coverage(folder: str | Path, picture: str = "coverage.svg", *, resamples: int = bootstrap.RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """The content of coverage.json, which goes into `folder` with the picture: {"n", "right", "by": {order: [{"coverage", "figures"}]}, "aurc",
    "reliability", "sure"}. Raises DataError where the captions of the evaluation have no confidence; warns where it was learned from them."""
    folder = Path(folder)
    drawing.require(picture)
    rows = sorted(scoring.read_rows(folder), key=lambda row: row["image_id"])
    try:
        sure, score = (np.array([float(row[name]) for row in rows]) for name in ("confidence", "score"))
        unsure = np.array([bool(row["unsure"]) for row in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the captions in {folder} have no confidence. Calibrate the captioner for its decoding (capdec calibrate), then evaluate it again."
        ) from error
    (digest, _), figures = scoring.read_evaluation(folder, ("coco_scores", "unseen_nouns"))
    if digest == _calibrated_on(folder):
        warnings.warn("these are the photos it was calibrated on: it looks better here than it is. Evaluate it on others.", stacklevel=2)
    each = figures["captions with unseen nouns"].each if "captions with unseen nouns" in figures else None
    if each is None:
        raise DataError(f"what the captions in {folder} name is not known: it is for English alone. Evaluate against English references.")
    right = each == 0
    shown = {name: figures[name] for name in SHOWN if name in figures}
    orders = {"confidence": sure, "score": score}
    found = {
        "n": len(rows),
        "right": round(float(right.mean()), 4),
        "by": {
            name: [{"coverage": part, "figures": _of_surest(shown, order, part, resamples, seed)} for part in COVERAGES]
            for name, order in orders.items()
        },
        **_with_intervals(sure, score, right, resamples, seed),
        "sure": {"coverage": round(float((~unsure).mean()), 4), "right": round(float(right[~unsure].mean()), 4) if not unsure.all() else None},
    }
    write_json(folder / "coverage.json", found)
    _draw(folder / picture, found, orders, right)
    return found


def _calibrated_on(folder: Path) -> str | None:
    """The digest of the photos and references that confidence was learned from, where the evaluation says it."""
    path = folder / "manifest.json"
    made: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key in ("confidence", "calibration", "dataset"):
        made = made.get(key) or {}
    return made.get("digest")


def _of_surest(figures: dict[str, Score], order: Float[np.ndarray, "N"], part: float, resamples: int, seed: int) -> dict[str, Any]:
    kept = np.sort(np.argsort(-order, kind="stable")[: max(1, round(part * len(order)))])
    some = {name: Score.of(one.statistics[kept], one.combine, one.note) for name, one in figures.items() if one.statistics is not None}
    return scoring.as_json(some, resamples, seed)


def _with_intervals(
    sure: Float[np.ndarray, "N"], score: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """AURC of each order and how far they are apart; and what confidence is worth as a probability."""
    generator = np.random.default_rng(seed)
    draws = [np.arange(len(right)), *generator.integers(len(right), size=(resamples, len(right)))]

    def of(figure: Callable[[np.ndarray], float]) -> dict[str, float | None]:
        value, *others = [figure(some) for some in draws]
        if not np.isfinite(value):
            return {"value": None}
        low, high = bootstrap.interval(np.array(others)[np.isfinite(others)])
        return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}

    risk = confidence.area_under_risk
    return {
        "aurc": {
            "confidence": of(lambda some: risk(sure[some], right[some])),
            "score": of(lambda some: risk(score[some], right[some])),
            "none": of(lambda some: float(1 - right[some].mean())),
            "best": of(lambda some: risk(right[some].astype(float), right[some])),
            "score - confidence": of(lambda some: risk(score[some], right[some]) - risk(sure[some], right[some])),
        },
        "reliability": {
            "auroc": of(lambda some: confidence.auroc(sure[some], right[some])),
            "auroc of score": of(lambda some: confidence.auroc(score[some], right[some])),
            "brier": of(lambda some: confidence.brier(sure[some], right[some])),
            "brier of the share right": of(lambda some: float(right[some].mean() * (1 - right[some].mean()))),
            "calibration error": {"value": round(confidence.calibration_error(sure, right), 4)},  # a bootstrap would add to it
            "bins": [[round(said, 4), round(true, 4), count] for said, true, count in confidence.reliability(sure, right)],
        },
    }  # fmt: skip


def _draw(path: Path, found: dict[str, Any], orders: dict[str, Float[np.ndarray, "N"]], right: Bool[np.ndarray, "N"]) -> None:
    n, parts = len(right), np.linspace(0.05, 1, 20).tolist()
    shares = {**{f"by {name}": order for name, order in orders.items()}, "the best there could be": right.astype(float)}
    places = [max(1, round(part * n)) - 1 for part in parts]
    lines = [drawing.Series(name, parts, confidence.right_among_surest(order, right)[places].tolist()) for name, order in shares.items()]
    lines.append(drawing.Series("no order", (0, 1), [found["right"]] * 2))
    cider = []
    for name, rows in found["by"].items():
        y, low, high = ([row["figures"]["CIDEr"][key] for row in rows] for key in ("value", "low", "high"))
        cider.append(drawing.Series(f"by {name}", [row["coverage"] for row in rows], y, low, high))
    said, true, _ = zip(*found["reliability"]["bins"], strict=True)
    panels = [
        ("Captions that name only what is there", "coverage", "share right", lines),
        ("CIDEr of the captions said", "coverage", "CIDEr", cider),
        (
            "Is it as sure as it may be?",
            "confidence",
            "share right",
            [drawing.Series("measured", said, true), drawing.Series("ideal", (0, 1), (0, 1))],
        ),
    ]
    drawing.side_by_side(path, panels)
