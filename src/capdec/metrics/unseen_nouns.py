"""Things that a caption names and no reference does: made up, or seen by nobody who wrote about the photo. After CHAIR (Rohrbach et al. 2018), which
knows COCO's 80 objects; this one has a lexicon of its own (`nouns`) and references only.

A bound from above: five people do not name everything there is. "A man" counts as seen where a reference says "a person", and the other way round.
"""

from pathlib import Path

import numpy as np

from capdec.nouns import nouns, seen
from capdec.protocols import Predictions, Score
from capdec.ptb import tokenize


class UnseenNouns:
    """Percent of the nouns named, and of the captions that name at least one such. A Score.missing in another language: the lexicon is English."""

    def __init__(self, language: str = "en"):
        self.language = language

    def score(self, predictions: Predictions) -> dict[str, Score]:
        if self.language != "en":
            missing = Score.missing(f"the lexicon of nouns is English, and the captions are in {self.language!r}")
            return {"unseen nouns": missing, "captions with unseen nouns": missing}
        counts = []
        for key, caption in predictions.captions.items():
            said = nouns(tokenize(caption).split())
            meant = {word for text in predictions.references[key] for word in nouns(tokenize(text).split())}
            unseen = [word for word in said if not seen(word, meant)]
            counts.append((100.0 * len(unseen), len(said), 100.0 * bool(unseen)))
        table = np.array(counts, np.float64)
        return {"unseen nouns": Score.of(table[:, :2]), "captions with unseen nouns": Score.mean_of(table[:, 2])}

    @classmethod
    def tiny(cls, folder: Path) -> "UnseenNouns":
        return cls()
