"""C3's bridge (Zhang, Sui, Yeung-Levy 2024, "Connect, Collapse, Corrupt"): each modality is moved to its own centre, so that the constant part of
the gap is gone. What is left is noise, which a noise bridge after this one makes a decoder used to.

    unit length of (x - mean) / std        text by the corpus' mean, images by that of some images, which need no captions

C3 subtracts means alone (`scale = false`); with `scale` every coordinate is brought to the same spread in both modalities too.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.errors import SettingError
from capdec.protocols import Condition, Supervision

if TYPE_CHECKING:
    from pathlib import Path

    from capdec.corpus import Corpus


class MeanShift:
    """Means and spreads are those of unit-length embeddings. Raises SettingError where it is fitted without images."""

    supervision = Supervision.IMAGE_STATISTICS

    def __init__(self, dim: int, scale: bool = False):
        self.scale = scale
        self.text, self.images = torch.zeros(2, dim), torch.zeros(2, dim)  # mean and spread
        self.text[1] = self.images[1] = 1

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        if images is None or len(images) < 2:
            raise SettingError("mean_shift needs the embeddings of some images: name photos (unpaired_photos in a recipe; no captions are read).")
        sums = torch.zeros_like(self.text)
        for chunk in corpus.embeddings.chunks():
            sums += torch.stack([chunk.sum(0), chunk.square().sum(0)])
        mean, square = sums / len(corpus)
        self.text = self._kept(mean, (square - mean.square()).clamp(min=0).sqrt())
        unit = F.normalize(images, dim=-1)
        self.images = self._kept(unit.mean(0), unit.std(0, correction=0))

    def _kept(self, mean: Float[Tensor, "D"], spread: Float[Tensor, "D"]) -> Float[Tensor, "2 D"]:
        return torch.stack([mean, spread.clamp(min=1e-6) if self.scale else torch.ones_like(spread)])

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        return _moved(condition, self.text)

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        return _moved(condition, self.images)

    def tensors(self) -> dict[str, Tensor]:
        return {"text": self.text, "images": self.images}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.text, self.images = tensors["text"].float(), tensors["images"].float()

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "MeanShift":
        """With centres of its own."""
        bridge = cls(dim)
        bridge.restore({name: torch.stack([torch.full((dim,), shift), torch.ones(dim)]) for name, shift in (("text", 0.1), ("images", -0.1))})
        return bridge


def _moved(condition: Condition, by: Float[Tensor, "2 D"]) -> Condition:
    mean, spread = by.to(condition.embeddings)
    return condition.with_embeddings(F.normalize((F.normalize(condition.embeddings, dim=-1) - mean) / spread, dim=-1))
