"""Measure the modality gap of a backbone, and suggest from text alone how much noise crosses it.

    text alone    cosines of captions of one photo (siblings) and of any two; centre, spectrum, anisotropy; three estimates of the noise
    with photos   cosines of a photo and its captions and of a photo and any caption; the distance of the two centres; what the pairs would say

What this does not know: which noise captions photos best. Only training at several levels tells (`capdec sweep`); an estimate is where to look.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from capdec import drawing, recipe
from capdec.checkpoint import write_json
from capdec.corpus import Photos, Spec, embed_photos, open_dataset, read_pairs
from capdec.errors import DataError
from capdec.noise import cosine_of, std_of
from capdec.progress import Progress
from capdec.protocols import Backbone


def gap(
    backbone: Backbone, captions: Spec, output: str | Path, photos: Spec | None = None, *, most: int = 25_000, seed: int = 0, picture: str = "gap.svg"
) -> dict[str, Any]:
    """The content of gap.json, written into `output` beside a picture. `captions` and `photos` are files or tables of a dataset part, joined by
    image_id where captions are to be paired with photos. At most about `most` captions are embedded, whole photos of them.

    Raises DataError where no photo has two captions: then text alone tells nothing about noise; SettingError for a picture that cannot be drawn.
    """
    drawing.require(picture)
    folder = Path(output)
    pairs = read_pairs(open_dataset(captions)).at_most(most, seed)
    with Progress("embedding captions", len(pairs)) as progress:
        rows = []
        for at in range(0, len(pairs), 1024):
            rows.append(backbone.encode_text(pairs.sources[at : at + 1024]).cpu())
            progress.update(min(at + 1024, len(pairs)))
    text = torch.cat(rows)
    first, second = _sibling_pairs(pairs.image_ids, pairs.sources)
    if not len(first):
        raise DataError("no photo has two different captions here (joined by image_id), so there is nothing to estimate a noise level from.")
    generator = torch.Generator().manual_seed(seed)
    cosines = {"captions of one photo": (text[first] * text[second]).sum(1), "any two captions": _any_two(text, text, generator)}
    report: dict[str, Any] = {
        **recipe.origin(), "backbone": backbone.fingerprint, "dim": backbone.dim, "captions": len(text), "sibling_pairs": len(first), "seed": seed,
        "text": _space(text), "estimates": _estimates(text[first], text[second], cosines["captions of one photo"]),
    }  # fmt: skip
    spectra = {"captions": _spectrum(text)}

    if photos is not None:
        images, of_photo = _photos(photos, backbone, folder / "embeddings")
        joined = [(row, of_photo[image]) for row, image in enumerate(pairs.image_ids) if image in of_photo]
        cosines["a photo and any caption"] = _any_two(images, text, generator)
        spectra["photos"] = _spectrum(images)
        apart = images.mean(0) - text.mean(0)
        report |= {"photos": len(images), "images": _space(images), "centres": _centres(text.mean(0), images.mean(0), apart), "pairs": len(joined)}
        if joined:
            told, shown = text[[row for row, _ in joined]], images[[row for _, row in joined]]
            cosines["a photo and its caption"] = (told * shown).sum(1)
            report["estimates"] += _from_pairs(told, shown, apart)
    report["spectra"] = {name: [float(f"{value:.4g}") for value in values] for name, values in spectra.items()}  # variance, largest first
    report["cosines"] = {name: _summary(values) for name, values in cosines.items()}
    report["suggestion"] = _suggestion(report["estimates"], backbone.dim)
    lines = {one["name"]: one["target_cosine"] for one in report["estimates"]}
    drawing.histograms_and_spectrum(folder / picture, {name: values.numpy() for name, values in cosines.items()}, spectra, lines)
    write_json(folder / "gap.json", report)
    return report


PAPER, SIBLING = "paper's estimate", "as far as a sibling"


def _suggestion(estimates: Sequence[dict[str, Any]], dim: int) -> dict[str, Any]:
    """Between the two text-only estimates that have each been near an optimum: on CLIP by published figures the paper's, on `mini` by our own
    (docs/results.md) a sibling's distance. Their geometric mean is where to begin; a sweep without photos decides on text alone."""
    paper, sibling = (next(one for one in estimates if one["name"] == name) for name in (PAPER, SIBLING))
    most, least = max(paper["std"], sibling["std"]), min(paper["std"], sibling["std"])
    why = f"between a sibling's distance, near the optimum on mini, and the paper's estimate, near it on CLIP: std {least} to {most}"
    return _estimate("suggestion", math.sqrt(most * least), dim, "text", why)


def _estimates(first: Float[Tensor, "S D"], second: Float[Tensor, "S D"], cosines: Float[Tensor, "S"]) -> list[dict[str, Any]]:
    """From text alone."""
    dim = first.shape[1]
    largest = (first - second).abs().amax(1).mean().item()
    spread = (first - second).square().mean(1).sqrt().mean().item()
    return [
        _estimate(PAPER, largest, dim, "text", "std = mean largest coordinate of the difference of two captions of a photo (CapDec)"),
        _estimate(SIBLING, std_of(cosines.mean().item(), dim), dim, "text", "noised is as near to clean as a sibling is"),
        _estimate("as wide as siblings", spread, dim, "text", "std = root mean square coordinate of their difference"),
    ]


def _from_pairs(told: Float[Tensor, "P D"], shown: Float[Tensor, "P D"], apart: Float[Tensor, "D"]) -> list[dict[str, Any]]:
    """What photos and their own captions would say: for comparison, since a text-only method does not have them."""
    dim = told.shape[1]
    cosine = (told * shown).sum(1).mean().item()
    shifted = F.cosine_similarity(told + apart, shown).mean().item()
    return [
        _estimate("as far as the photo", std_of(cosine, dim), dim, "pairs", "noised is as near to clean as its photo is"),
        _estimate("as far as the photo, centres aligned", std_of(shifted, dim), dim, "pairs", "the same after the modality offset was added"),
    ]


def _estimate(name: str, std: float, dim: int, given: str, why: str) -> dict[str, Any]:
    return {"name": name, "std": round(std, 4), "target_cosine": round(cosine_of(std, dim), 4), "from": given, "why": why}


def _sibling_pairs(image_ids: Sequence[str | None], texts: Sequence[str]) -> tuple[Int[Tensor, "S"], Int[Tensor, "S"]]:
    """Rows of every two different captions of one photo."""
    groups: dict[str, list[int]] = {}
    for row, image in enumerate(image_ids):
        if image is not None:
            groups.setdefault(image, []).append(row)
    found = [(a, b) for group in groups.values() for place, a in enumerate(group) for b in group[place + 1 :] if texts[a] != texts[b]]
    return torch.tensor([a for a, _ in found]).long(), torch.tensor([b for _, b in found]).long()


def _any_two(first: Float[Tensor, "A D"], second: Float[Tensor, "B D"], generator: torch.Generator, count: int = 50_000) -> Float[Tensor, "C"]:
    a, b = (torch.randint(len(rows), (count,), generator=generator) for rows in (first, second))
    different = (a != b) if first is second else torch.ones(count, dtype=torch.bool)
    return (first[a[different]] * second[b[different]]).sum(1)


def _space(rows: Float[Tensor, "N D"]) -> dict[str, float]:
    """The length of the centre; anisotropy: the mean cosine of two different rows (Ethayarajh 2019); how many directions the spread has: the
    participation ratio of the spectrum, and how many hold 90 % of it."""
    centre = rows.mean(0).norm().item()
    values = _spectrum(rows)
    anisotropy = (centre**2 * len(rows) - 1) / max(1, len(rows) - 1)
    return {
        "centre_norm": round(centre, 4),
        "anisotropy": round(anisotropy, 4),
        "effective_dimension": round(float(values.sum() ** 2 / (values**2).sum()), 1),
        "dimensions_for_90_percent": int(np.searchsorted(np.cumsum(values) / values.sum(), 0.9)) + 1,
    }


def _spectrum(rows: Float[Tensor, "N D"]) -> Float[np.ndarray, "D"]:
    """Variance in each principal direction, largest first."""
    centred = (rows - rows.mean(0)).double()
    return torch.linalg.eigvalsh(centred.T @ centred / len(rows)).flip(0).clamp(min=0).numpy()


def _centres(text: Float[Tensor, "D"], images: Float[Tensor, "D"], apart: Float[Tensor, "D"]) -> dict[str, float]:
    """How far apart the modalities' centres are, and how few coordinates hold that distance."""
    energy = apart.square().sort(descending=True).values
    return {
        "distance": round(apart.norm().item(), 4),
        "cosine": round(F.cosine_similarity(text, images, dim=0).item(), 4),
        "share_of_largest_coordinate": round((energy[0] / energy.sum()).item(), 4),
        "share_of_largest_five": round((energy[:5].sum() / energy.sum()).item(), 4),
    }


def _summary(values: Float[Tensor, "C"]) -> dict[str, float]:
    low, high = values.quantile(torch.tensor([0.05, 0.95])).tolist()
    return {"mean": round(values.mean().item(), 4), "std": round(values.std().item(), 4), "5%": round(low, 4), "95%": round(high, 4)}


def _photos(spec: Spec, backbone: Backbone, folder: Path) -> tuple[Float[Tensor, "M D"], dict[str, int]]:
    photos = Photos.of(open_dataset(spec))
    with Progress("embedding photos", len(photos.ids)) as progress:
        found, rows = embed_photos(photos, backbone, folder, lambda done, _: progress.update(done))
    return found[torch.arange(len(found))], rows
