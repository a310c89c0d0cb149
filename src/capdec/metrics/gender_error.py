"""Whom captions call a man and whom a woman, after Hendricks et al. 2018, "Women also Snowboard". The references say whose photo it is: a woman's
where at least two of them name a woman (girls, mothers, actresses ...) and none names a man; a man's likewise; all other photos count for nothing but
`gendered`. Pronouns count there alone: a dog has a `his` too.

What it does not know: anybody's gender. It compares what was written with what five people wrote, who guessed as well. English alone.
"""

from pathlib import Path

import numpy as np

from capdec.errors import SettingError
from capdec.gender import gendered, genders
from capdec.protocols import Predictions, Score

AGREED = 2
"""References that name it."""


class GenderError:
    """In percent. `gendered`: captions with a gendered word; `gender named`: on photos of men or of women, captions that name one of the two and not
    both; `gender error`: of these, those that name the other; `gender error, women` and `gender error, men`: on photos of women, and of men, alone.
    Raises SettingError for another language than English."""

    def __init__(self, language: str = "en"):
        if language != "en":
            raise SettingError(f"the metric gender_error knows English words alone (language 'en'), and {language!r} came. Leave it out.")

    def score(self, predictions: Predictions) -> dict[str, Score]:
        said = np.array([_one(caption) for caption in predictions.captions.values()])
        meant = np.array([_agreed([genders(text) for text in predictions.references[key]]) for key in predictions.captions])
        of_one, named = meant != "", (meant != "") & (said != "")
        found = {
            "gendered": Score.mean_of(100.0 * np.array([bool(gendered(text)) for text in predictions.captions.values()])),
            "gender named": _percent(named, of_one, "the references of no photo agree on a gender"),
        }
        for name, photos in (("gender error", of_one), ("gender error, women", meant == "woman"), ("gender error, men", meant == "man")):
            found[name] = _percent(named & photos & (said != meant), named & photos, "no caption of such a photo names one gender")
        return found

    @classmethod
    def tiny(cls, folder: Path) -> "GenderError":
        return cls()


def _one(text: str) -> str:
    named = genders(text)
    return next(iter(named)) if len(named) == 1 else ""


def _agreed(references: list[frozenset]) -> str:
    named = frozenset().union(*references)
    return next(iter(named)) if len(named) == 1 and sum(map(bool, references)) >= AGREED else ""


def _percent(part: np.ndarray, whole: np.ndarray, otherwise: str) -> Score:
    return Score.of(np.stack([100.0 * part, whole], 1).astype(np.float64)) if whole.any() else Score.missing(otherwise)
