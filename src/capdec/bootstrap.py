"""How sure a figure is: the bootstrap over images (Efron 1979; for captions and translations Koehn 2004).

Images are drawn with replacement, and each figure is made again from the drawn images' statistics. CIDEr's idf stays that of the whole set, since it
belongs to the benchmark and not to the sample. What this does not know: the spread between trainings (several seeds), unless several runs are given.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from capdec.errors import MismatchError
from capdec.protocols import Score

RESAMPLES = 1000
LEVEL = 95


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    """A minus B; `p` is two-sided: how often the resampled difference has the other sign, doubled."""

    value: float
    low: float
    high: float
    p: float


def resampled(scores: Sequence[Score], resamples: int = RESAMPLES, seed: int = 0) -> list[Float[np.ndarray, "R"]]:
    """Each figure in the same `resamples` draws of images. The scores have statistics, of the same images."""
    statistics = [score.statistics for score in scores if score.statistics is not None]
    counts = {len(one) for one in statistics}
    if len(statistics) != len(scores) or len(counts) != 1:
        raise MismatchError(f"a bootstrap needs figures with statistics of the same images; these are of {sorted(counts)} images.")
    (images,) = counts
    together = np.concatenate(statistics, 1)  # (N, S of all)
    generator = np.random.default_rng(seed)
    rows = max(1, 8_000_000 // images)  # draws at a time: a matrix of 64 MB
    sums = [
        generator.multinomial(images, np.full(images, 1 / images), min(rows, resamples - start)).astype(np.float64) @ together
        for start in range(0, resamples, rows)
    ]
    ends = np.cumsum([one.shape[1] for one in statistics])[:-1]
    return [score.combine(part) for score, part in zip(scores, np.split(np.concatenate(sums), ends, axis=1), strict=True)]


def intervals(scores: Sequence[Score], resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    return [interval(draws) for draws in resampled(scores, resamples, seed)]


def mean_of_runs(runs: Sequence[Score], resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, Interval]:
    """The mean figure of several trainings scored on the same images, and its interval over images and trainings: both are drawn anew each time."""
    return float(np.mean([run.value for run in runs])), interval(draws_of_runs(runs, resamples, seed))


def difference(first: Sequence[Score], second: Sequence[Score], resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Paired: both sides see the same draws of images. Each side is one run or several, whose mean counts."""
    draws = draws_of_runs(first, resamples, seed) - draws_of_runs(second, resamples, seed)
    value = float(np.mean([run.value for run in first]) - np.mean([run.value for run in second]))
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return Difference(value, *interval(draws), min(1.0, 2 * (int(beyond) + 1) / (resamples + 1)))


def draws_of_runs(runs: Sequence[Score], resamples: int = RESAMPLES, seed: int = 0) -> Float[np.ndarray, "R"]:
    """The runs' mean figure in each draw of images and of runs; of other runs with the same seed, in the same draws."""
    figures = np.stack(resampled(runs, resamples, seed))  # (runs, R)
    drawn = np.random.default_rng(seed + 1).integers(len(runs), size=(len(runs), resamples))
    return np.take_along_axis(figures, drawn, 0).mean(0)


def interval(draws: Float[np.ndarray, "R"]) -> Interval:
    """What holds 95 % of the draws."""
    low, high = np.percentile(draws, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return Interval(float(low), float(high))
