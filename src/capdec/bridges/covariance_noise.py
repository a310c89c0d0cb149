"""CLOSE's structured noise (Gu, Clark, Kembhavi 2023, section 5): not in all directions alike, but as embeddings of one photo really differ.

    unit length of x + n        n ~ N(mean, scale^2 covariance) of differences of embeddings

    differences = "pairs"       a photo's embedding minus that of its caption: CLOSE's, which needs captioned photos and so is not text-only
    differences = "siblings"    two captions of one photo: text alone (their mean is 0)

An isotropic noise is mostly in directions that no embedding ever takes, where a decoder learns to ignore it.
"""

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.errors import SettingError
from capdec.protocols import Condition, Supervision

if TYPE_CHECKING:
    from pathlib import Path

    from capdec.corpus import Corpus

MOST = 100_000  # differences that the covariance is estimated from


class CovarianceNoise:
    """`scale` multiplies the spread (1: as measured); `target_cosine` asks for the expected cosine of a noised embedding with the clean one instead,
    as far as the mean difference allows. Raises SettingError for values out of range, and where it is fitted without what its differences need."""

    def __init__(
        self,
        dim: int,
        differences: Literal["siblings", "pairs"] = "siblings",
        scale: float | None = None,
        target_cosine: float | None = None,
        seed: int = 0,
    ):
        if differences not in ("siblings", "pairs"):
            raise SettingError(f"differences are 'siblings' (text alone) or 'pairs' (captioned photos), not {differences!r}.")
        if (scale is not None and target_cosine is not None) or not 0 <= (scale or 0) < math.inf or not 0 < (target_cosine or 1) <= 1:
            raise SettingError(f"scale is 0 or more, or target_cosine in (0, 1]; scale = {scale}, target_cosine = {target_cosine} came.")
        self.differences, self.scale, self.target_cosine, self.seed = differences, scale, target_cosine, seed
        self.supervision = Supervision.PAIR_STATISTICS if differences == "pairs" else Supervision(0)
        self.mean, self.root = torch.zeros(dim), torch.zeros(dim, dim)

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        """Mean and covariance of the differences, kept as the covariance's root, scaled."""
        apart = self._of_siblings(corpus) if self.differences == "siblings" else self._of_pairs(corpus, images)
        self.mean = apart.mean(0) if self.differences == "pairs" else torch.zeros_like(self.mean)  # of siblings in either order
        centred = (apart - self.mean).double()
        values, directions = torch.linalg.eigh(centred.T @ centred / len(apart))
        self.root = (directions * values.clamp(min=0).sqrt()).float()
        if not self.root.any():
            raise SettingError("covariance_noise found no differences: the embeddings of one photo are all the same. Are captions told from photos?")
        if self.target_cosine is not None:
            self.root *= math.sqrt((1 / self.target_cosine**2 - 1) / self.root.square().sum().item())
        else:
            self.root *= 1 if self.scale is None else self.scale

    def _of_siblings(self, corpus: "Corpus") -> Float[Tensor, "S D"]:
        pairs = torch.tensor([(row, other) for row, others in corpus.siblings().items() for other in others if row < other]).view(-1, 2)
        if len(pairs) < 2:
            raise SettingError('differences = "siblings" need photos with several captions, joined by image_id, and the corpus has none.')
        some = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(self.seed))[:MOST]]
        return corpus.embeddings[some[:, 0]] - corpus.embeddings[some[:, 1]]

    def _of_pairs(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None) -> Float[Tensor, "S D"]:
        joined = [(row, corpus.photos[key]) for row, key in enumerate(corpus.pairs.image_ids) if key is not None and key in corpus.photos]
        if images is None or len(joined) < 2:
            raise SettingError(
                'differences = "pairs" need photos (unpaired_photos in a recipe) with the image ids of captions. Without: differences = "siblings".'
            )
        some = torch.tensor(joined)[torch.randperm(len(joined), generator=torch.Generator().manual_seed(self.seed))[:MOST]]
        return F.normalize(images[some[:, 1]], dim=-1) - corpus.embeddings[some[:, 0]]

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Noise on every row. Draws on the CPU, so that a seed gives the same noise on any device."""
        moved = F.normalize(condition.embeddings, dim=-1) + self.mean.to(condition.embeddings)
        if generator is not None:
            moved = moved + (torch.randn(moved.shape, generator=generator) @ self.root.T).to(moved)
        return condition.with_embeddings(F.normalize(moved, dim=-1))

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        return condition

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "root": self.root}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.mean, self.root = tensors["mean"].float(), tensors["root"].float()

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "CovarianceNoise":
        """With a noise in half of the coordinates."""
        bridge = cls(dim)
        bridge.root = torch.diag(torch.tensor([0.1, 0.0] * (dim // 2)))
        return bridge
