"""How much a set of captions says, whatever the photos: length, vocabulary, distinct-1 and -2 (Li et al. 2016), and the share of captions that stand
word for word in the text the captioner learned from.

Vocabulary and distinct-n grow and fall with the size of the set and have no interval: drawing images twice would shrink them. They compare systems on
the same images only.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from capdec.language import tokenizer
from capdec.protocols import Predictions, Score


class Diversity:
    """Length in tokens, vocabulary in words; the others in percent."""

    def __init__(self, language: str = "en"):
        self.tokenize = tokenizer(language)

    def score(self, predictions: Predictions) -> dict[str, Score]:
        said = {key: self.tokenize(text) for key, text in predictions.captions.items()}
        words = [text.split() for text in said.values()]
        single = [word for text in words for word in text]
        pairs = [pair for text in words for pair in pairwise(text)]
        copied = Score.missing("the text it learned from was not given")
        if len(predictions.training_text):
            learned = {self.tokenize(text) for text in predictions.training_text}
            copied = Score.mean_of(np.array([100.0 * (text in learned) for text in said.values()]))
        return {
            "length": Score.mean_of(np.array([float(len(text)) for text in words])),
            "vocabulary": Score(float(len(set(single)))),
            "distinct-1": Score(100 * len(set(single)) / max(1, len(single))),
            "distinct-2": Score(100 * len(set(pairs)) / max(1, len(pairs))),
            "copied": copied,
        }

    @classmethod
    def tiny(cls, folder: Path) -> "Diversity":
        return cls()
