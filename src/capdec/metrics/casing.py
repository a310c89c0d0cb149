"""Are words written as people write them, capitals and all? The other figures do not see it: they are in lower case. German nouns have capitals, and
a captioner that learned from careless text leaves some out.

It knows no grammar: a word is right where it stands as the references of the set, taken together, write it most often ("das Essen", "sie essen").
"""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from capdec.protocols import Predictions, Score

WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


class Casing:
    """Percent of the words behind a caption's first that are written as the references most often write them, behind their first; words that no
    reference has are not counted."""

    def score(self, predictions: Predictions) -> dict[str, Score]:
        spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for texts in predictions.references.values():
            for word in (word for text in texts for word in _behind_the_first(text)):
                spellings[word.lower()][word] += 1
        usual = {word: max(found, key=found.__getitem__) for word, found in spellings.items()}
        said = [[word for word in _behind_the_first(text) if word.lower() in usual] for text in predictions.captions.values()]
        counts = [(100.0 * sum(word == usual[word.lower()] for word in words), float(len(words))) for words in said]
        if not any(said):
            return {"casing": Score.missing("no caption has a word behind its first that a reference has behind its first.")}
        return {"casing": Score.of(np.array(counts, np.float64))}

    @classmethod
    def tiny(cls, folder: Path) -> "Casing":
        return cls()


def _behind_the_first(text: str) -> list[str]:
    return WORD.findall(text)[1:]
