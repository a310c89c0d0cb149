"""Which of two captioners is better, and how sure that is: a paired bootstrap over the images of their evaluations (Koehn 2004).

Each side is one evaluation, or several of one captioner trained with different seeds: then their mean counts, and trainings are drawn anew as well as
images. What this does not do: correct for looking at many figures or many pairs of captioners.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from capdec import bootstrap, scoring
from capdec.errors import MismatchError, SettingError


def compare(
    first: Sequence[str | Path],
    second: Sequence[str | Path],
    *,
    metrics: Sequence[str] = ("coco_scores",),
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """By figure: {"first", "second", "difference", "low", "high", "p"}. The sides are folders that `capdec evaluate` wrote. `metrics` are made again
    from their captions; figures that are plain means over images (CLIPScore, R@1 ...) are taken from the files.

    What different judges said is left out with a warning. Raises DataError where a folder holds no evaluation, MismatchError where they are not of
    the same images and references.
    """
    if not first or not second:
        raise SettingError("a comparison has two sides, each the folder of an evaluation, or several of one captioner with different seeds.")
    sides = [[scoring.read_evaluation(Path(folder), metrics) for folder in side] for side in (first, second)]
    of_what = {key for side in sides for key, _ in side}
    if len(of_what) > 1:
        languages = sorted({language for _, language in of_what})
        of = f"{len(of_what)} different sets of images and references" if len(languages) == 1 else f"different languages ({', '.join(languages)})"
        raise MismatchError(f"these evaluations are of {of}: only the same set, in one language, can be compared.")
    runs = [[figures for _, figures in side] for side in sides]
    found, unlike = {}, []
    for name in runs[0][0]:
        if all(name in figures for side in runs for figures in side):
            if len({figures[name].note for side in runs for figures in side}) > 1:
                unlike.append(name)
                continue
            ours, theirs = ([figures[name] for figures in side] for side in runs)
            difference = bootstrap.difference(ours, theirs, resamples, seed)
            means = {which: round(float(np.mean([one.value for one in side])), 3) for which, side in (("first", ours), ("second", theirs))}
            rounded = {key: round(getattr(difference, key), 3) for key in ("low", "high")}
            found[name] = {**means, "difference": round(difference.value, 3), **rounded, "p": round(difference.p, 4)}
    if unlike:
        warnings.warn(f"{', '.join(unlike)}: left out, for different judges said them. Evaluate both with the same --judge.", stacklevel=2)
    return found
