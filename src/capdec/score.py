"""Score any system's captions: a file of predictions against a dataset of references. No captioner and no photo is needed, nor Java; METEOR and SPICE
run where Java is, and the judge's figures where photos are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capdec import bootstrap, scoring
from capdec.language import tokens
from capdec.protocols import Backbone, Dataset, Predictions


def score(
    predictions: str | Path,
    references: Dataset,
    *,
    metrics: Sequence[str | dict[str, Any]] = scoring.METRICS,
    judge: Backbone | None = None,
    language: str = "en",
    partial: bool = False,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """{"n", "left_out", "dataset", "split", "language", "tokens", "figures", "groups"}; `left_out` is how many images of the split are not scored,
    which only `partial` allows; `groups` has the figures of each group, where the dataset has groups (NoCaps' domains).

    Raises DataError where a file cannot be used or an id comes twice, MismatchError, listing them, where images are missing or unknown.
    """
    captions = scoring.read_predictions(predictions)
    examples = scoring.read_references(references)
    left_out = [key for key in examples if key not in captions]
    if partial:
        examples = {key: example for key, example in examples.items() if key in captions}
    scoring.require_same_images(captions, examples)
    ordered = {key: captions[key] for key in examples}
    openers = {key: example.open_image for key, example in examples.items() if example.open_image is not None}
    shown = Predictions(ordered, {key: example.captions for key, example in examples.items()}, openers if len(openers) == len(examples) else None)
    judges = scoring.build(metrics, judge, language)
    figures = scoring.as_json(scoring.score(judges, shown), resamples, seed)
    groups = scoring.score_groups(judges, shown, examples, resamples, seed)
    absent = len(left_out) + getattr(references, "left_out", 0)
    return {
        "n": len(examples), "left_out": absent, "dataset": references.name, "split": references.split, "language": language,
        "tokens": tokens(language), "figures": figures, "groups": groups,
    }  # fmt: skip
