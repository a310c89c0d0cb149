"""BLEU-1..4, ROUGE-L and CIDEr as the COCO caption evaluation computes them, without Java. Its "CIDEr" is CIDEr-D; all figures are times 100.

Texts go through our Python twin of Stanford's PTB tokenizer (`ptb`), in other languages through Moses' (`language`); BLEU and ROUGE-L are
pycocoevalcap's own, CIDEr is its equal (`cider`).
"""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from capdec.cider import cider
from capdec.errors import MissingExtra
from capdec.language import tokenizer
from capdec.protocols import Predictions, Score


class CocoScores:
    """Raises MissingExtra without pycocoevalcap, and what `language.tokenizer` raises."""

    def __init__(self, language: str = "en"):
        self.tokenize = tokenizer(language)

    def score(self, predictions: Predictions) -> dict[str, Score]:
        try:
            from pycocoevalcap.bleu.bleu_scorer import BleuScorer
            from pycocoevalcap.rouge.rouge import Rouge
        except ImportError as error:
            raise MissingExtra("pycocoevalcap", "eval", "scoring captions") from error
        said = [self.tokenize(text) for text in predictions.captions.values()]
        meant = [[self.tokenize(text) for text in predictions.references[key]] for key in predictions.captions]
        counter = BleuScorer(n=4)
        for caption, references in zip(said, meant, strict=True):
            counter += (caption, references)
        counts = np.array([_counts(one) for one in counter.ctest], np.float64)
        rouge = np.array([Rouge().calc_score([caption], references) for caption, references in zip(said, meant, strict=True)])
        return {
            **{f"BLEU-{n}": Score.of(counts, partial(bleu, n=n)) for n in range(1, 5)},
            "ROUGE-L": Score.mean_of(100 * rouge),
            "CIDEr": Score.mean_of(100 * cider(said, meant)),
        }

    @classmethod
    def tiny(cls, folder: Path) -> "CocoScores":
        return cls()


def _counts(one: dict) -> list[float]:
    """Of an image: n-grams that match and n-grams there are, n = 1..4, the caption's length and that of the reference nearest to it in length."""
    return [*one["correct"], *one["guess"], one["testlen"], min((abs(length - one["testlen"]), length) for length in one["reflen"])[1]]


def bleu(sums: Float[np.ndarray, "... 10"], n: int) -> Float[np.ndarray, "..."]:
    """Papineni et al. 2002: the geometric mean of the precisions times the brevity penalty; with pycocoevalcap's guards against dividing by 0."""
    correct, guess, length, wanted = sums[..., :n], sums[..., 4 : 4 + n], sums[..., 8], sums[..., 9]
    precision = ((correct + 1e-15) / (guess + 1e-9)).prod(-1) ** (1 / n)
    ratio = (length + 1e-15) / (wanted + 1e-9)
    return 100 * precision * np.exp(np.minimum(0, 1 - 1 / ratio))
