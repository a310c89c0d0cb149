"""Is it said in the style? A classifier of texts (logistic regression over words and pairs of words) learns to tell a style's captions from plain
ones and is asked about each caption. Evidence of style and of nothing else: whether the photo is still told, a judge has to say.

What it does not know: whether a caption is good; one tell-tale word ("love") can be enough for it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from capdec.errors import DataError, MissingExtra
from capdec.protocols import Predictions, Score


class Style:
    """`style` and `plain` are texts (in a recipe: files or tables of a dataset part). A tenth of them, the same each time, is held out, and the note
    says how many of those the classifier gets right. Raises MissingExtra without scikit-learn, DataError where a side has fewer than 20 texts."""

    texts = ("style", "plain")

    def __init__(self, style: Sequence[str], plain: Sequence[str]):
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ImportError as error:
            raise MissingExtra("scikit-learn", "eval", "the metric style") from error
        if min(len(style), len(plain)) < 20:
            raise DataError(f"a style is told from plain captions by at least 20 of each; {len(style)} and {len(plain)} came.")
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
        self.classifier = make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=0))
        learnt, held = ([(text, label) for side, label in ((style, 1), (plain, 0)) for text in side if _held(text) is out] for out in (False, True))
        self.classifier.fit([text for text, _ in learnt], [label for _, label in learnt])
        sides = [[text for text, label in held if label == side] for side in (0, 1)]
        right = [np.mean(self.classifier.predict(texts) == side) for side, texts in enumerate(sides) if texts]
        self.note = f"by a classifier that is right on {100 * float(np.mean(right)):.1f} % of {len(held)} held-out texts (both kinds weighed alike)"

    def score(self, predictions: Predictions) -> dict[str, Score]:
        found = self.classifier.predict(list(predictions.captions.values()))
        return {"in style": Score.mean_of(100.0 * np.asarray(found, np.float64), self.note)}

    @classmethod
    def tiny(cls, folder: Path) -> "Style":
        return cls([f"{n} lovers in love" for n in range(30)], [f"a dog runs {n}" for n in range(30)])


def _held(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] < 26
