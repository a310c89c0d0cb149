"""Learn how sure a captioner may be of its captions, from calibration photos that people wrote about: which signals (`confidence`) go with captions
that name only what is there, and below which confidence a caption is unsure.

    photos -> captions -> signals ------------------------+
    references -> is everything named there? (unseen_nouns)+-> logistic regression -> confidence.json in the captioner's folder

The photos must be none that the captioner, or its backbone, learned from: it would be taken for surer than it is. What the file says of its own worth
is cross-validated among them, and so is the threshold; photos that had no part in it tell more (`capdec evaluate`, `capdec coverage`).
"""

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from capdec import confidence, recipe, scoring
from capdec.captioner import Captioner
from capdec.checkpoint import write_json
from capdec.confidence import Confidence, Signal
from capdec.corpus import encode_photos, opened_photos
from capdec.errors import DataError, ImageError, MissingExtra, SettingError
from capdec.progress import Progress
from capdec.protocols import Decoding, Predictions, Supervision

FOLDS = 10
FEWEST = 20
"""Right captions, and wrong ones, without which nothing is learned."""
LEARNED_FROM = Supervision.TARGET_DOMAIN_TEXT | Supervision.BACKBONE_PAIRS


def calibrate(
    captioner: Captioner,
    dataset: str | dict[str, Any],
    output: str | Path,
    *,
    decoding: Decoding | None = None,
    precision: float = 0.5,
    coverage: float | None = None,
    draws: int = 0,
    partial: bool = False,
    batch: int = 64,
    seed: int = 0,
) -> Confidence:
    """Writes the file `output`, and returns what is in it. A caption is unsure below the confidence at which, of the captions above it, the share
    `precision` is right; or at which the share `coverage` of captions is above it. `draws` further captions a photo are drawn for `agreement`, in
    calibration and ever after: dear. With `partial` photos that cannot be opened are left out, and counted. Warns where the captioner, or its
    backbone, may have learned from the photos.

    Raises SettingError for shares that cannot be, a precision that is not reached, or another language than English; DataError for photos that cannot
    be opened, and where too few captions are right, or wrong, to learn from.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise MissingExtra("scikit-learn", "eval", "calibrating") from error
    if not 0 < precision < 1 or not 0 < (0.5 if coverage is None else coverage) <= 1 or draws < 0:
        raise SettingError(f"precision and coverage are shares between 0 and 1, draws 0 or more; {precision}, {coverage} and {draws} came.")
    if captioner.language != "en":
        raise SettingError(
            f"what a caption names is known in English alone, and this captioner speaks {captioner.language!r}: it cannot be calibrated."
        )
    decoding = decoding or captioner.decoding
    captioner.check(decoding)
    photos = scoring.open_references(dataset)
    if photos.split == "train" and captioner.supervision_on(photos.name) & LEARNED_FROM:
        warnings.warn(
            "the captioner, or its backbone, may have learned from these train photos: it will be taken for surer than it is.", stacklevel=2
        )
    examples = scoring.read_references(photos)
    captions, found = _captioned(captioner, {key: example.open_image for key, example in examples.items()}, decoding, draws, partial, batch)
    left_out = getattr(photos, "left_out", 0) + len(examples) - len(captions)
    references = {key: examples[key].captions for key in captions}
    right = _right(captions, references)
    if min(right.sum(), (~right).sum()) < FEWEST:
        raise DataError(
            f"of {len(right)} captions {right.sum()} name only what a reference names: of both kinds {FEWEST} are needed to learn from. Take more "
            f"photos; captions whose words the lexicon does not know cannot be calibrated."
        )
    found = {name: values for name, values in found.items() if values.std() > 0}
    scales = {name: (float(values.mean()), float(values.std())) for name, values in found.items()}
    inputs = np.stack([(found[name] - mean) / deviation for name, (mean, deviation) in scales.items()], 1)
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(inputs, right))
    unseen = cross_val_predict(LogisticRegression(), inputs, right, cv=folds, method="predict_proba")[:, 1]
    threshold, kept = _threshold(unseen, right, precision, coverage), np.zeros(len(right), bool)
    if not np.isfinite(threshold):
        best = _shares(unseen, right).max()
        raise SettingError(f"no {FEWEST} captions or more are right to {precision:.0%}: the surest reach {best:.0%}. Ask for less.")
    for others, fold in folds:  # each by the threshold that the others would have chosen
        kept[fold] = unseen[fold] >= _threshold(unseen[others], right[others], precision, coverage)
    learned = LogisticRegression().fit(inputs, right)
    weights = {name: Signal(*scales[name], weight) for name, weight in zip(scales, learned.coef_[0].tolist(), strict=True)}
    record = {
        **recipe.origin(),
        "captioner": captioner.fingerprint,
        "dataset": {"name": photos.name, "split": photos.split, "digest": scoring.digest(references), "n": len(right), "left_out": left_out},
        "right": "names nothing that no reference names (unseen_nouns)",
        "share_right": _rounded(right.mean()),
        "threshold_by": {"precision": precision} if coverage is None else {"coverage": coverage},
        "cross_validated": {
            "folds": FOLDS, "seed": seed, "auroc": _rounded(confidence.auroc(unseen, right)), "brier": _rounded(confidence.brier(unseen, right)),
            "brier_of_share_right": _rounded(right.mean() * (1 - right.mean())),
            "calibration_error": _rounded(confidence.calibration_error(unseen, right)),
            "aurc": _rounded(confidence.area_under_risk(unseen, right)), "coverage": _rounded(kept.mean()),
            "precision": _rounded(right[kept].mean()) if kept.any() else None,
        },
        "auroc_alone": {name: _rounded(confidence.auroc(values, right)) for name, values in found.items()},
    }  # fmt: skip
    made = Confidence(weights, float(learned.intercept_[0]), threshold, decoding, draws if "agreement" in weights else 0, record)
    write_json(output, made.as_json())
    return made


def _captioned(
    captioner: Captioner, openers: dict[str, Any], decoding: Decoding, draws: int, partial: bool, batch: int
) -> tuple[dict[str, str], dict[str, Float[np.ndarray, "N"]]]:
    """Captions by photo, and their signals in the same order."""
    if lacking := [key for key, opener in openers.items() if opener is None]:
        raise DataError(f"calibration needs photos, and {len(lacking)} of {len(openers)} examples have none ({lacking[0]} ...). Name their folder.")
    captions: dict[str, str] = {}
    parts: list[dict[str, Float[np.ndarray, B]]] = []
    keys, done = iter(openers), 0
    with Progress("captioning", len(openers)) as progress:
        for opened in opened_photos(openers.values(), captioner.backbone, batch):
            named = list(zip(itertools.islice(keys, len(opened)), opened, strict=True))
            done += len(opened)
            images = {key: image for key, image in named if not isinstance(image, ImageError)}
            if wrong := [image for _, image in named if isinstance(image, ImageError) and not partial]:
                raise DataError(f"{len(wrong)} photos cannot be opened, the first: {wrong[0]} Mend them, or leave them out (--partial).")
            if not images:
                continue
            vectors = encode_photos(captioner.backbone, list(images.values()), captioner.regions, captioner.normalize)
            told = captioner.caption_embeddings(vectors, decoding, batch, start=len(captions))
            parts.append(captioner.signals(told, vectors, draws, start=len(captions), decoding=decoding))
            captions |= {key: caption.text for key, caption in zip(images, told, strict=True)}
            progress.update(done)
    if not captions:
        raise DataError(f"none of {len(openers)} photos could be opened. Is their folder right?")
    return captions, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _right(captions: dict[str, str], references: dict[str, tuple[str, ...]]) -> Bool[np.ndarray, "N"]:
    figures = scoring.score(scoring.build(("unseen_nouns",), None), Predictions(captions, references))
    each = figures["captions with unseen nouns"].each
    assert each is not None
    return each == 0


def _threshold(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], precision: float, coverage: float | None) -> float:
    """The least confidence that is not unsure, infinite where no captions are right so often. Those equally sure are kept together, or not at all."""
    least = np.sort(sure)[::-1]
    if coverage is not None:
        return float(least[max(1, round(coverage * len(sure))) - 1])
    enough = np.flatnonzero(_shares(sure, right) >= precision)
    return float(least[enough[-1]]) if len(enough) else np.inf


def _shares(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The share right among the k surest; -1 where k is too few, or one beyond is as sure as the last."""
    order = np.sort(sure)[::-1]
    whole = np.append(order[1:] < order[:-1], True) & (np.arange(len(sure)) >= FEWEST - 1)
    return np.where(whole, confidence.right_among_surest(sure, right), -1)


def _rounded(value: float) -> float:
    return round(float(value), 4)
