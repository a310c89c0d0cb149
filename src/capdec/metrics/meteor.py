"""METEOR 1.5 (Denkowski and Lavie 2014) by its own program, which pycocoevalcap brings along and Java runs: `-l en -norm`, as the COCO
evaluation has it. The program counts matches (exact, stem, synonym, paraphrase); the formula over the counts is made again here, so that a
bootstrap can use it.

German: `-l de -norm`, which has no synonyms and wants the table paraphrase-de.gz of METEOR 1.5 in the program's data/. pycocoevalcap leaves it out;
without it exact and stem matches alone are counted, and the note says so. Whatever the language, the program takes English function words.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from capdec.errors import CapdecError
from capdec.language import tokenizer
from capdec.protocols import Predictions, Score


class Tuned(NamedTuple):
    """The program's parameters for a language; `weights` are of the kinds of matches in its order."""

    alpha: float
    beta: float
    gamma: float
    delta: float
    weights: tuple[float, float, float, float]


TUNED = {
    "en": Tuned(0.85, 0.2, 0.6, 0.75, (1.0, 0.6, 0.8, 0.6)),  # exact, stem, synonym, paraphrase
    "de": Tuned(0.95, 1.0, 0.55, 0.55, (1.0, 0.8, 0.2, 0.0)),  # exact, stem, paraphrase
}


class Meteor:
    """Times 100. A Score.missing where Java or the program is not there, or the language is neither English nor German. Raises CapdecError where the
    program fails."""

    def __init__(self, language: str = "en"):
        self.language, self.tokenize = language, tokenizer(language)

    def score(self, predictions: Predictions) -> dict[str, Score]:
        if self.language not in TUNED:
            return {"METEOR": Score.missing(f"its parameters are known here for {' and '.join(TUNED)} alone, not for {self.language!r}")}
        jar = _jar()
        if shutil.which("java") is None or jar is None:
            lacking = "pip install 'capdec[eval]'" if jar is None else "it runs on Java, and there is no `java` on the path"
            return {"METEOR": Score.missing(lacking)}
        lines = [
            _line(self.tokenize(text), [self.tokenize(one) for one in predictions.references[key]]) for key, text in predictions.captions.items()
        ]
        whole_program = (jar.parent / "data" / f"paraphrase-{self.language}.gz").is_file()
        matches, note = (
            ([], "") if whole_program else (["-m", "exact stem"], f"exact and stem matches alone: paraphrase-{self.language}.gz is not there")
        )
        command = ["java", "-jar", "-Xmx2G", jar.name, "-", "-", "-stdio", "-l", self.language, *matches, "-norm"]
        done = subprocess.run(command, cwd=jar.parent, input="".join(lines).encode(), capture_output=True)
        rows = [line.split() for line in done.stdout.decode().splitlines()]
        if len(rows) != len(lines) or any(len(row) != 23 for row in rows):
            raise CapdecError(f"METEOR's program gave {len(rows)} answers to {len(lines)} captions: {done.stderr.decode().strip()[-500:]}")
        counts = np.array(rows, np.float64)
        whole = (counts[:, 20] == 1) & (counts[:, 21:] == counts[:, :2]).all(1)
        counts[whole, 20] = 0  # the same words in the same order are not scattered: so the program counts them in a set
        return {"METEOR": Score.of(counts, partial(meteor, language=self.language), note)}

    @classmethod
    def tiny(cls, folder: Path) -> "Meteor":
        return cls()


def meteor(sums: Float[np.ndarray, "... 23"], language: str = "en") -> Float[np.ndarray, "..."]:
    """The program's figures for a caption: its length and the reference's, function words in each; for each kind of match the matched content words
    in the caption and in the reference, then the function words; chunks; matched words in each."""
    alpha, beta, gamma, delta, weights = TUNED[language]
    length, wanted, function, wanted_function = (sums[..., place] for place in range(4))
    matches = sums[..., 4:20].reshape(
        *sums.shape[:-1], 4, 4
    )  # (..., kind, content and function in the caption, content and function in the reference)
    chunks, matched, matched_wanted = (sums[..., place] for place in range(20, 23))
    content, content_wanted, small, small_wanted = ((matches[..., place] * np.array(weights)).sum(-1) for place in range(4))
    precision = _share(delta * content + (1 - delta) * small, delta * (length - function) + (1 - delta) * function)
    recall = _share(delta * content_wanted + (1 - delta) * small_wanted, delta * (wanted - wanted_function) + (1 - delta) * wanted_function)
    mean = _share(precision * recall, alpha * precision + (1 - alpha) * recall)
    scattered = _share(chunks, (matched + matched_wanted) / 2)
    return 100 * mean * (1 - gamma * scattered**beta)


def _share(part: Float[np.ndarray, "..."], whole: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.divide(part, whole, out=np.zeros_like(np.asarray(whole, np.float64)), where=whole > 0)


def _jar() -> Path | None:
    package = importlib.util.find_spec("pycocoevalcap")
    places = package.submodule_search_locations if package else None
    found = [Path(place) / "meteor" / "meteor-1.5.jar" for place in places or []]
    return next((path for path in found if path.is_file()), None)


def _line(caption: str, references: Sequence[str]) -> str:
    return " ||| ".join(["SCORE", *(text.replace("|||", "") for text in (*references, caption))]) + "\n"
