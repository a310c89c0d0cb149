"""How sure a captioner may be of a caption: the probability that everything it names is there to be seen. What tells it:

    score       the caption's own: its log-probability over tokens ** length_penalty
    cosine      of photo and caption, by the captioner's own backbone
    known       mean cosine of the photo, as it gets there, and the nearest captions of the captioner's memory, where it has one
    things      how many it names: the more, the more can be wrong
    agreement   the share of further captions, drawn by nucleus sampling, that name each of its things; where such draws were asked for

A logistic regression weighs these; `calibrate` learns it on captioned photos, for one decoding. A thing is there if somebody who wrote of the photo
names it (as metrics/unseen_nouns has it).

Below, what confidences are worth: as probabilities, and as the order in which captions are said or withheld (Geifman and El-Yaniv 2017).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from capdec import generation
from capdec.errors import DataError, brief
from capdec.nouns import nouns, seen
from capdec.protocols import Caption, Decoding
from capdec.ptb import tokenize

FILE = "confidence.json"
FORMAT = 1
SIGNALS = {"score", "cosine", "known", "things", "agreement"}
NEAREST = 10
"""Captions of the memory that `known` is the mean over."""
BINS = 10


class Signal(NamedTuple):
    """Among the calibration photos, and what one standard deviation of it adds to the log-odds."""

    mean: float
    deviation: float
    weight: float


@dataclass(frozen=True)
class Confidence:
    """`threshold` is the least confidence of a caption that is not unsure, `decoding` what it was calibrated for, `record` how."""

    signals: Mapping[str, Signal]
    bias: float
    threshold: float
    decoding: Decoding
    draws: int = 0
    record: dict[str, Any] = field(default_factory=dict)

    def of(self, found: Mapping[str, Float[np.ndarray, "B"]]) -> Float[np.ndarray, "B"]:
        """The confidence in each caption, from its signals."""
        odds = self.bias + sum(one.weight * (found[name] - one.mean) / one.deviation for name, one in self.signals.items())
        return 1 / (1 + np.exp(-np.asarray(odds)))

    def judged(self, captions: Sequence[Caption], found: Mapping[str, Float[np.ndarray, "B"]]) -> list[Caption]:
        """The captions, with what their signals say of them."""
        sure = self.of(found).tolist()
        return [replace(caption, confidence=one, unsure=one < self.threshold) for caption, one in zip(captions, sure, strict=True)]

    def suits(self, decoding: Decoding, drawn: bool = False) -> bool:
        """Whether this decoding's best caption is found as by the one it was calibrated for: more alternatives may be shown, and drawn otherwise.
        `drawn`: each candidate is told from draws of its own, so that of more of them another may be the best."""
        ours = replace(self.decoding, captions=decoding.captions, seed=decoding.seed)
        by_score = decoding.strategy == "beam" and decoding.rerank == "none" and not drawn  # whose best stays the best where more are found
        return ours == decoding and (by_score or generation.found(self.decoding) == generation.found(decoding))

    @property
    def fingerprint(self) -> str:
        """Equal for two that say the same of every caption, whenever they were learned."""
        said = {key: value for key, value in self.as_json().items() if key != "calibration"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        shown = {name: {key: round(value, 6) for key, value in one._asdict().items()} for name, one in self.signals.items()}
        return {
            "format_version": FORMAT, "signals": shown, "bias": round(self.bias, 6), "threshold": round(self.threshold, 6), "draws": self.draws,
            "decoding": asdict(self.decoding), "calibration": self.record,
        }  # fmt: skip

    @classmethod
    def read(cls, folder: Path) -> "Confidence | None":
        """What stands in a captioner's folder, where it was calibrated. Raises DataError for a file that is damaged, or another version's."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if table["format_version"] != FORMAT:
                raise ValueError(f"format_version is {table['format_version']!r}, and this capdec reads {FORMAT}")
            signals = {name: Signal(*(float(one[key]) for key in Signal._fields)) for name, one in table["signals"].items()}
            if not signals.keys() <= SIGNALS or not all(one.deviation > 0 for one in signals.values()) or not isinstance(table["calibration"], dict):
                raise ValueError(f"signals are of {', '.join(sorted(SIGNALS))}, each with a deviation, and beside them stands how it was calibrated")
            decoding = generation.settings(table["decoding"])
            return cls(signals, float(table["bias"]), float(table["threshold"]), decoding, int(table["draws"]), table["calibration"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} cannot be used ({brief(error)}). Calibrate again (capdec calibrate), or delete it.") from error


def learned(folder: Path, fingerprint: str) -> Confidence | None:
    """What stands in a folder for a captioner of these weights."""
    try:
        found = Confidence.read(folder)
    except DataError:
        return None
    return found if found is not None and found.record.get("captioner") == fingerprint else None


def things(caption: str) -> list[str]:
    """What it names.

    >>> things("Two dogs play with a ball.")
    ['dog', 'ball']
    """
    return nouns(tokenize(caption).split())


def agreement(said: Sequence[Sequence[str]], further: Sequence[Sequence[str]]) -> Float[np.ndarray, "B"]:
    """For the things that each caption names, the mean share of further captions of its photo that name them; 1 where it names none.

    >>> agreement([["dog", "ball"]], [["a dog", "a dog runs"]]).tolist()
    [0.5]
    """
    shares = []
    for one, texts in zip(said, further, strict=True):
        named = [set(things(text)) for text in texts]
        shares.append(float(np.mean([seen(thing, other) for thing in one for other in named])) if one else 1.0)
    return np.array(shares)


def brier(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"]) -> float:
    """Mean squared distance of a probability from what came true (Brier 1950); of a constant one p (1 - p)."""
    return float(np.mean((sure - right) ** 2))


def reliability(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], bins: int = BINS) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, captions) of equally many captions at a time, from the least sure."""
    parts = [part for part in np.array_split(np.argsort(sure, kind="stable"), bins) if len(part)]
    return [(float(sure[part].mean()), float(right[part].mean()), len(part)) for part in parts]


def calibration_error(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], bins: int = BINS) -> float:
    """How far confidence and share right are apart, on the mean over `reliability`'s bins (the expected calibration error)."""
    return sum(count * abs(said - true) for said, true, count in reliability(sure, right, bins)) / len(sure)


def auroc(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"]) -> float:
    """How often a right caption is surer than a wrong one; half where they are equal. NaN where all are right, or none."""
    good, bad = sure[right], np.sort(sure[~right])
    if not len(good) or not len(bad):
        return float("nan")
    return float((np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")).mean() / 2 / len(bad))


def right_among_surest(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The share right among the k surest captions, k from 1; captions equally sure count as their mean, whatever their order."""
    order = np.argsort(-sure, kind="stable")
    _, place, counts = np.unique(-sure[order], return_inverse=True, return_counts=True)
    share = np.bincount(place, right[order].astype(np.float64)) / counts
    return np.cumsum(share[place]) / np.arange(1, len(sure) + 1)


def area_under_risk(sure: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"]) -> float:
    """AURC: the share wrong, on the mean over all coverages (Geifman, Uziel and El-Yaniv 2019). Of no order at all: the share wrong of the whole."""
    return float(1 - right_among_surest(sure, right).mean())
