"""CIDEr, and all of coco_scores, beside pycocoevalcap's own way (its scorers behind Stanford's tokenizer on Java), in interleaved rounds.

    python benchmarks/scores.py            invented captions: 5,000 images with 5 references each

Prints the least and the median time of each and their ratios; equal figures are asserted before anything is timed.
"""

import contextlib
import io
import statistics
import time
from collections.abc import Callable

import numpy as np

from capdec.cider import cider
from capdec.metrics.coco_scores import CocoScores
from capdec.protocols import Predictions
from capdec.ptb import tokenize

IMAGES, REFERENCES, ROUNDS, WORDS = 5_000, 5, 3, 3_000


def invented() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Words as often as Zipf has them, in captions of some eleven words; a caption shares words with its references."""
    random = np.random.default_rng(0)
    words = np.array([f"word{chr(97 + n % 26)}{n}" for n in range(WORDS)])
    chance = 1 / np.arange(1, WORDS + 1)
    chance /= chance.sum()

    def text(topic: np.ndarray) -> str:
        own = random.choice(words, random.integers(4, 10), p=chance)
        return "A " + " ".join(random.permutation(np.concatenate([own, random.choice(topic, 4)]))) + "."

    topics = [random.choice(words, 8, p=chance) for _ in range(IMAGES)]
    captions = {str(n): text(topic) for n, topic in enumerate(topics)}
    return captions, {str(n): [text(topic) for _ in range(REFERENCES)] for n, topic in enumerate(topics)}


def reference_pipeline(captions: dict[str, str], references: dict[str, list[str]]) -> float:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        said = PTBTokenizer().tokenize({key: [{"caption": text}] for key, text in captions.items()})
        meant = PTBTokenizer().tokenize({key: [{"caption": text} for text in texts] for key, texts in references.items()})
        Bleu(4).compute_score(meant, said, verbose=0)
        Rouge().compute_score(meant, said)
        return 100 * float(Cider().compute_score(meant, said)[0])


def main() -> None:
    captions, references = invented()
    said = [tokenize(text) for text in captions.values()]
    meant = [[tokenize(text) for text in texts] for texts in references.values()]

    def theirs() -> np.ndarray:
        from pycocoevalcap.cider.cider import Cider

        return Cider().compute_score(dict(enumerate(meant)), {n: [text] for n, text in enumerate(said)})[1]

    assert abs(cider(said, meant) - theirs()).max() < 1e-9
    assert abs((CocoScores().score(Predictions(captions, references))["CIDEr"].value or 0) - reference_pipeline(captions, references)) < 1e-9
    ways: dict[str, Callable[[], object]] = {
        "CIDEr, ours": lambda: cider(said, meant),
        "CIDEr, pycocoevalcap": theirs,
        "tokens, BLEU, ROUGE-L, CIDEr, ours": lambda: CocoScores().score(Predictions(captions, references)),
        "the same, pycocoevalcap and Java": lambda: reference_pipeline(captions, references),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    for name, taken in times.items():
        print(f"{name:<40} least {min(taken):6.2f} s, median {statistics.median(taken):6.2f} s")
    for ours, other in (list(ways)[:2], list(ways)[2:]):
        print(f"{other}: {min(times[other]) / min(times[ours]):.1f} x the time of: {ours}")


if __name__ == "__main__":
    main()
