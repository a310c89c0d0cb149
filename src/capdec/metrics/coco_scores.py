"""BLEU-1..4, ROUGE-L and CIDEr as the COCO caption evaluation computes them, by pycocoevalcap. Its "CIDEr" is CIDEr-D; all values are times 100.
Both sides go through Stanford's PTBTokenizer, which runs on Java. What is not here yet: METEOR, SPICE, and a tokenizer without Java.
"""

import contextlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from capdec.errors import CapdecError, MismatchError, MissingExtra
from capdec.protocols import Score


class CocoScores:
    """Raises MissingExtra without pycocoevalcap, CapdecError without Java, MismatchError where captions and references are not of the same images."""

    def score(self, captions: dict[str, str], references: dict[str, Sequence[str]]) -> dict[str, Score]:
        try:
            from pycocoevalcap.bleu.bleu import Bleu
            from pycocoevalcap.cider.cider import Cider
            from pycocoevalcap.rouge.rouge import Rouge
            from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
        except ImportError as error:
            raise MissingExtra("pycocoevalcap", "eval", "scoring captions") from error
        if captions.keys() != references.keys():
            missing, extra = sorted(references.keys() - captions.keys()), sorted(captions.keys() - references.keys())
            raise MismatchError(
                f"captions and references differ: no caption for {missing[:5]}, no references for {extra[:5]}. Give one caption an image."
            )
        if shutil.which("java") is None:
            raise CapdecError(
                "the PTB tokenizer needs Java, and there is no `java` on the path. Install a Java runtime (Debian: default-jre-headless)."
            )
        tokenizer = PTBTokenizer()
        said = tokenizer.tokenize({key: [{"caption": text}] for key, text in captions.items()})
        meant = tokenizer.tokenize({key: [{"caption": text} for text in references[key]] for key in captions})
        scores = {}
        with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its counts
            values, each = Bleu(4).compute_score(meant, said, verbose=0)
            for n, (value, numbers) in enumerate(zip(values, each, strict=True), 1):
                scores[f"BLEU-{n}"] = (value, numbers)
            scores["ROUGE-L"] = Rouge().compute_score(meant, said)
            scores["CIDEr"] = Cider().compute_score(meant, said)
        return {
            name: Score(100 * float(value), None if name.startswith("BLEU") else {k: 100 * float(one) for k, one in zip(said, numbers, strict=True)})
            for name, (value, numbers) in scores.items()
        }

    @classmethod
    def tiny(cls, folder: Path) -> "CocoScores":
        return cls()
