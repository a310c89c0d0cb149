"""Learn how sure a captioner may be of its captions, from calibration photos that people wrote about: which signals (`confidence`) go with captions
that name only what is there, and below which confidence a caption is unsure.

    photos -> captions -> signals ------------------------+
    references -> is everything named there? (unseen_nouns)+-> logistic regression -> confidence.json in the captioner's folder

The photos must be none that the captioner, or its backbone, learned from: it would be taken for surer than it is. What the file says of its own worth
is cross-validated among them, and so is the threshold; photos that had no part in it tell more (`capdec evaluate`, `capdec coverage`).
"""

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
from capdec.protocols import Caption, Decoding, Predictions

FOLDS = 10
FEWEST = 20
"""Right captions, and wrong ones, without which nothing is learned."""


def calibrate(
    captioner: Captioner,
    dataset: str | dict[str, Any],
    output: str | Path,
    *,
    decoding: Decoding | None = None,
    precision: float = 0.5,
    coverage: float | None = None,
    draws: int = 0,
    batch: int = 64,
    seed: int = 0,
) -> Confidence:
    """Writes the file `output`, and returns what is in it. A caption is unsure below the confidence at which, of the captions above it, the share
    `precision` is right; or at which the share `coverage` of captions is above it. `draws` further captions a photo are drawn for `agreement`, in
    calibration and ever after: dear.

    Raises SettingError for shares that cannot be, a precision that is not reached, or another language than English; DataError for photos that cannot
    be opened, and where too few captions are right, or wrong, to learn from.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise MissingExtra("scikit-learn", "eval", "calibrating") from error
    if not 0 < precision < 1 or not 0 < (coverage or 0.5) <= 1 or draws < 0:
        raise SettingError(f"precision and coverage are shares between 0 and 1, draws 0 or more; {precision}, {coverage} and {draws} came.")
    if captioner.language != "en":
        raise SettingError(
            f"what a caption names is known in English alone, and this captioner speaks {captioner.language!r}: it cannot be calibrated."
        )
    decoding = decoding or captioner.decoding
    captioner.check(decoding)
    photos = scoring.open_references(dataset)
    examples = scoring.read_references(photos)
    captions, found = _captioned(captioner, {key: example.open_image for key, example in examples.items()}, decoding, draws, batch)
    references = {key: example.captions for key, example in examples.items()}
    right = _right(dict(zip(examples, (caption.text for caption in captions), strict=True)), references)
    if min(right.sum(), (~right).sum()) < FEWEST:
        raise DataError(
            f"of {len(right)} captions {right.sum()} name only what a reference names: of both kinds {FEWEST} are needed to learn from. Take more "
            f"photos; captions whose words the lexicon does not know cannot be calibrated."
        )
    found = {name: values for name, values in found.items() if values.std() > 0}
    scales = {name: (float(values.mean()), float(values.std())) for name, values in found.items()}
    inputs = np.stack([(found[name] - mean) / deviation for name, (mean, deviation) in scales.items()], 1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    unseen = cross_val_predict(LogisticRegression(), inputs, right, cv=folds, method="predict_proba")[:, 1]
    threshold, kept = _threshold(unseen, right, precision, coverage)
    learned = LogisticRegression().fit(inputs, right)
    weights = {name: Signal(*scales[name], weight) for name, weight in zip(scales, learned.coef_[0].tolist(), strict=True)}
    record = {
        **recipe.origin(),
        "captioner": captioner.fingerprint,
        "dataset": {"name": photos.name, "split": photos.split, "digest": scoring.digest(references), "n": len(right)},
        "right": "names nothing that no reference names (unseen_nouns)",
        "share_right": _rounded(right.mean()),
        "threshold_by": {"precision": precision} if coverage is None else {"coverage": coverage},
        "cross_validated": {
            "folds": FOLDS, "seed": seed, "auroc": _rounded(confidence.auroc(unseen, right)), "brier": _rounded(confidence.brier(unseen, right)),
            "brier_of_share_right": _rounded(right.mean() * (1 - right.mean())),
            "calibration_error": _rounded(confidence.calibration_error(unseen, right)),
            "aurc": _rounded(confidence.area_under_risk(unseen, right)), "coverage": _rounded(kept.mean()), "precision": _rounded(right[kept].mean()),
        },
        "auroc_alone": {name: _rounded(confidence.auroc(values, right)) for name, values in found.items()},
    }  # fmt: skip
    made = Confidence(weights, float(learned.intercept_[0]), threshold, decoding, draws, record)
    write_json(output, made.as_json())
    return made


def _captioned(
    captioner: Captioner, openers: dict[str, Any], decoding: Decoding, draws: int, batch: int
) -> tuple[list[Caption], dict[str, Float[np.ndarray, "N"]]]:
    """Captions in order, and their signals."""
    if lacking := [key for key, opener in openers.items() if opener is None]:
        raise DataError(f"calibration needs photos, and {len(lacking)} of {len(openers)} examples have none ({lacking[0]} ...). Name their folder.")
    captions: list[Caption] = []
    parts: list[dict[str, Float[np.ndarray, B]]] = []
    with Progress("captioning", len(openers)) as progress:
        for opened in opened_photos(openers.values(), captioner.backbone, batch):
            images = [image for image in opened if not isinstance(image, ImageError)]
            if len(images) < len(opened):
                wrong = next(image for image in opened if isinstance(image, ImageError))
                raise DataError(f"{len(opened) - len(images)} photos cannot be opened, the first: {wrong} Mend them, or leave them out.")
            vectors = encode_photos(captioner.backbone, images, captioner.regions, captioner.normalize)
            told = captioner.caption_embeddings(vectors, decoding, batch, start=len(captions))
            parts.append(captioner.signals(told, vectors, draws, start=len(captions), decoding=decoding))
            captions += told
            progress.update(len(captions))
    return captions, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _right(captions: dict[str, str], references: dict[str, tuple[str, ...]]) -> Bool[np.ndarray, "N"]:
    figures = scoring.score(scoring.build(("unseen_nouns",), None), Predictions(captions, references))
    each = figures["captions with unseen nouns"].each
    assert each is not None
    return each == 0


def _threshold(
    sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], precision: float, coverage: float | None
) -> tuple[float, Bool[np.ndarray, "N"]]:
    """The least confidence that is not unsure, and which captions have it."""
    if coverage is not None:
        count = max(1, round(coverage * len(sure)))
    else:
        enough = np.flatnonzero(confidence.right_among_surest(sure, right)[FEWEST - 1 :] >= precision)
        if not len(enough):
            best = confidence.right_among_surest(sure, right)[FEWEST - 1 :].max()
            raise SettingError(f"no {FEWEST} captions or more are right to {precision:.0%}: the surest reach {best:.0%}. Ask for less.")
        count = FEWEST + int(enough[-1])
    threshold = float(np.sort(sure)[-count])
    return threshold, sure >= threshold


def _rounded(value: float) -> float:
    return round(float(value), 4)
