"""CapDec's bridge (Nukrai, Mokady, Globerson 2022, section 3): the text embedding is noised in training, and the image embedding left alone.

    unit length -> + noise (+ offset) -> unit length        noise ~ N(0, std^2 I), offset = mean image - mean text

For a unit vector in D dimensions the cosine between noised and clean is about c = 1 / sqrt(1 + D std^2); `target_cosine` asks for c directly. The
published "noise 0.016" is a variance: std 0.1265, c = 0.30 at D = 640. Neither number carries over to another backbone: choose it on held-out text.
The offset is the authors' option (their modality_offset_calculator); it needs the mean of some images, unpaired.
"""

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.errors import SettingError
from capdec.noise import cosine_of, one_of
from capdec.protocols import Condition, Supervision

if TYPE_CHECKING:
    from pathlib import Path

    from capdec.corpus import Corpus


class GaussianNoise:
    """One of `std` (standard deviation per coordinate), `variance` (its square) or `target_cosine` (in (0, 1]).

    `distribution="uniform"` is the paper's alternative, uniform in a ball, here of the radius that gives the same mean squared norm (the released
    code's ball of radius std holds a noise about 25 times smaller than the Gaussian it is compared with). `std = 0` adds none.
    `modality_offset` adds the difference of the two modalities' mean embeddings as well (the released code forgets it where the noise is 0).

    Raises SettingError where not exactly one of the three is given or where it is out of range.
    """

    def __init__(
        self,
        dim: int,
        std: float | None = None,
        variance: float | None = None,
        target_cosine: float | None = None,
        distribution: Literal["gaussian", "uniform"] = "gaussian",
        modality_offset: bool = False,
    ):
        self.std = one_of("gaussian_noise", dim, std, variance, target_cosine)
        if distribution not in ("gaussian", "uniform"):
            raise SettingError(f"distribution is 'gaussian' or 'uniform', not {distribution!r}.")
        self.dim = dim
        self.distribution = distribution
        self.supervision = Supervision.IMAGE_STATISTICS if modality_offset else Supervision(0)
        self.offset: Tensor | None = torch.zeros(dim) if modality_offset else None

    @property
    def target_cosine(self) -> float:
        """Expected cosine between an embedding and its noised self, 1 / sqrt(1 + D std^2)."""
        return cosine_of(self.std, self.dim)

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        """The offset, where it is wanted. Raises SettingError without images."""
        if self.offset is None:
            return
        if images is None or not len(images):
            raise SettingError("modality_offset needs the mean embedding of some images: name them (unpaired_photos in a recipe), or leave it out.")
        text = sum((chunk.sum(0) for chunk in corpus.embeddings.chunks()), torch.zeros(self.dim)) / len(corpus)
        self.offset = F.normalize(images, dim=-1).mean(0) - text

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Noise on every row. Draws on the CPU, so that a seed gives the same noise on any device."""
        if (self.std == 0 or generator is None) and self.offset is None:
            return condition
        moved = F.normalize(condition.embeddings, dim=-1)  # (B, K, D)
        if generator is not None:
            moved = moved + self._noise(moved.shape, generator).to(moved)
        return condition.with_embeddings(F.normalize(moved if self.offset is None else moved + self.offset.to(moved), dim=-1))

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Float[Tensor, "B K D"]:
        noise = torch.randn(shape, generator=generator)
        if self.distribution == "gaussian":
            return noise * self.std
        # Uniform in a ball of radius r: a random direction at r u^(1/D). Its mean squared norm is r^2 D / (D + 2); the Gaussian's is D std^2.
        radius = self.std * math.sqrt(self.dim + 2)
        share = torch.rand(shape[:-1], generator=generator).unsqueeze(-1) ** (1 / self.dim)
        return F.normalize(noise, dim=-1) * radius * share

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        return condition

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.offset is None else {"offset": self.offset}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.offset = tensors.get("offset")

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "GaussianNoise":
        return cls(dim=dim, std=0.1)
