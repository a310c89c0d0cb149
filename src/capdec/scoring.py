"""Figures for sets of captions: what evaluation, scoring and comparing share. A figure is a value with its 95 % interval, or a reason why there is
none."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from capdec import bootstrap, parts
from capdec.corpus import open_dataset, whole
from capdec.errors import DataError, MismatchError, SettingError, brief
from capdec.protocols import Backbone, Dataset, Example, Metric, Predictions, Score

METRICS = ("coco_scores", "meteor", "spice", "clip_score", "unseen_nouns", "diversity")
DIGITS = 3
OF_THE_SET = ("BLEU", "METEOR", "unseen nouns", "gender ", "casing")
"""Figures that are no means over images: read from a file they could not be put together again."""


def build(specs: Sequence[str | dict[str, Any]], judge: Backbone | None, language: str = "en") -> list[Metric]:
    """The metrics; how captions fit their photos a judge says, and without one that is left out. Settings that a metric calls its `texts` are files
    or tables of a dataset part here, and captions there; `language` is told to those that take it. Raises UnknownPart, SettingError, MissingExtra."""
    metrics = []
    for spec in specs:
        table: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
        if table["name"] == "clip_score":
            if judge is None:
                continue
            table["judge"] = judge
        for key in getattr(parts.find("metrics", table["name"]), "texts", ()):
            if key in table:
                table[key] = [caption for example in open_dataset(table[key]) for caption in example.captions]
        metrics.append(parts.build("metrics", table, language=language))
    return metrics


def score(metrics: Sequence[Metric], predictions: Predictions) -> dict[str, Score]:
    """Every figure by its name. Raises MismatchError where captions and references are not of the same images."""
    require_same_images(predictions.captions, predictions.references)
    figures: dict[str, Score] = {}
    for metric in metrics:
        figures |= metric.score(predictions)
    return figures


def score_groups(
    metrics: Sequence[Metric], predictions: Predictions, examples: Mapping[str, Example], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """{"n", and what `as_json` says} of each group of a dataset that has groups, apart: CIDEr's idf is that of the group."""
    found = {}
    for group in dict.fromkeys(example.group for example in examples.values() if example.group):
        ids = [key for key, example in examples.items() if example.group == group]
        captions, references = {key: predictions.captions[key] for key in ids}, {key: predictions.references[key] for key in ids}
        figures = score(metrics, replace(predictions, captions=captions, references=references))
        found[group] = {"n": len(ids), **as_json(figures, resamples, seed)}
    return found


def require_same_images(captions: Mapping[str, Any], references: Mapping[str, Any]) -> None:
    missing, extra = [key for key in references if key not in captions], [key for key in captions if key not in references]
    if missing or extra:
        raise MismatchError(
            f"captions and references are of other images: no caption for {_listed(missing)}; no references for {_listed(extra)}. Give each image of "
            f"the split one caption; where only a part is meant, say so (--partial): its figures do not compare with those of the whole."
        )


def _listed(ids: Sequence[str], most: int = 200) -> str:
    return f"{len(ids)} images ({', '.join(ids[:most])}{', ...' if len(ids) > most else ''})" if ids else "none"


def as_json(figures: Mapping[str, Score], resamples: int = bootstrap.RESAMPLES, seed: int = 0) -> dict[str, dict[str, Any]]:
    """{"value", "low", "high", "note"} of each figure; value is null where it was not computed."""
    sure = {name: one for name, one in figures.items() if one.statistics is not None}
    ranges = dict(zip(sure, bootstrap.intervals(list(sure.values()), resamples, seed), strict=True)) if sure else {}
    found: dict[str, dict[str, Any]] = {}
    for name, one in figures.items():
        found[name] = {"value": None if one.value is None else round(one.value, DIGITS)}
        if name in ranges:
            found[name] |= {"low": round(ranges[name].low, DIGITS), "high": round(ranges[name].high, DIGITS)}
        if one.note:
            found[name]["note"] = one.note
    return found


def of_each_image(figures: Mapping[str, Score], ids: Sequence[str]) -> list[dict[str, float]]:
    """Image by image the figures that an image alone has."""
    columns = {name: one.each for name, one in figures.items()}
    return [{name: round(float(each[place]), DIGITS) for name, each in columns.items() if each is not None} for place in range(len(ids))]


def open_references(spec: str | dict[str, Any]) -> Dataset:
    """The dataset that captions are scored on. Raises SettingError where that would be a training split which nobody asked for by name."""
    dataset = open_dataset(spec)
    if dataset.split == "train" and not (isinstance(spec, dict) and spec.get("split")):
        raise SettingError(
            f"{spec if isinstance(spec, str) else spec.get('path')}: which split is to be scored? Name it: --split test, val, train ..."
        )
    return dataset


def read_references(dataset: Dataset) -> dict[str, Example]:
    """The examples by image id. Raises DataError where an id is missing or comes twice, listing them, or an image has no references."""
    examples: dict[str, Example] = {}
    doubled = []
    for example in dataset:
        if example.image_id is None or not example.captions:
            raise DataError(f"references need image ids and texts, and {example.image_id or 'an example'} lacks one.")
        if example.image_id in examples:
            doubled.append(example.image_id)
        examples[example.image_id] = replace(example, captions=tuple(map(whole, example.captions)))
    if doubled:
        raise DataError(f"the references have {_listed(doubled)} more than once: ids must be unique.")
    return examples


def read_predictions(path: str | Path) -> dict[str, str]:
    """Captions by image id, from COCO's result format ([{"image_id", "caption"}]) or JSON lines of the same. Raises DataError, listing ids that come
    twice."""
    path, place = Path(path), ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        whole = text.lstrip().startswith("[")
        rows = json.loads(text) if whole else []
        for number, line in enumerate(() if whole else text.split("\n"), 1):
            place = f", line {number}"
            rows += [json.loads(line)] if line.strip() else []
        pairs = []
        for number, row in enumerate(rows, 1):
            place = f", caption {number}"
            key = row["image_id"]
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise ValueError(f"image_id is {key!r}")
            pairs.append((str(key), row["caption"]))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        wanted = '[{"image_id": 9, "caption": "a dog runs"}, ...], or such an object a line'
        raise DataError(f"{path}{place} holds no predictions ({brief(error)}). It looks like {wanted}.") from error
    if wrong := [key for key, caption in pairs if not isinstance(caption, str)]:
        raise DataError(f"{path}: the caption of {_listed(wrong)} is no text.")
    captions = dict(pairs)
    if len(captions) < len(pairs):
        seen: set[str] = set()
        doubled = [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
        raise DataError(f"{path} has several captions for {_listed(list(dict.fromkeys(doubled)))}. Give one an image.")
    if not captions:
        raise DataError(f"{path} holds no predictions: it is empty.")
    return captions


def digest(references: Mapping[str, Sequence[str]]) -> str:
    """Names a split by what is in it: ids and references, in any order."""
    rows = sorted((key, list(texts)) for key, texts in references.items())
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]


def read_evaluation(folder: Path, metrics: Sequence[str]) -> tuple[tuple[str, str], dict[str, Score]]:
    """Of a folder that `capdec evaluate` wrote: the digest of its images and references, their language, and every figure that has statistics. The
    figures of `metrics` are made again from the captions; plain means over images (CLIPScore, R@1 ...) are taken from the file. Raises DataError."""
    rows = read_rows(folder)
    rows.sort(key=lambda row: row["image_id"])
    references = {row["image_id"]: row["references"] for row in rows}
    language, notes = _noted(folder)
    made = score(build(metrics, None, language), Predictions({row["image_id"]: row["caption"] for row in rows}, references))
    figures = {name: one for name, one in made.items() if one.statistics is not None}
    for name in rows[0]["figures"]:
        each = np.array([row["figures"].get(name, np.nan) for row in rows], np.float64)
        if name not in made and not name.startswith(OF_THE_SET) and np.isfinite(each).all():
            figures[name] = Score.mean_of(each, notes.get(name, ""))
    return (digest(references), language), figures


def _noted(folder: Path) -> tuple[str, dict[str, str]]:
    """The language of an evaluation, and what it noted beside its own figures: which judge said them."""
    path = folder / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"systems": {"itself": {}}}
        return str(scores.get("language", "en")), {name: str(one.get("note", "")) for name, one in scores["systems"]["itself"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({brief(error)}). Copy it again, or evaluate again.") from error


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """What `capdec evaluate` wrote to predictions.jsonl, an image a row. Raises DataError."""
    path = folder / "predictions.jsonl"
    if not path.is_file():
        raise DataError(f"{folder} holds no evaluation: it has no predictions.jsonl. `capdec evaluate ... --output {folder}` writes one.")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        texts = [text for row in rows for text in (row["image_id"], row["caption"], *row["references"], *row["figures"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({brief(error)}). Copy it again, or evaluate again.") from error
    if not rows or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path} is damaged: it has {'what is no text among its texts' if rows else 'no rows'}. Copy it again, or evaluate again.")
    return rows
