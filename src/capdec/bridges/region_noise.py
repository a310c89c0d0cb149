"""MacCap's bridge (Qiu et al. 2024): a decoder that learned from several noisy copies of a caption's embedding is told several regions of a photo.

    training     [x + n_1, ..., x + n_K]            n ~ N(0, std^2 I), drawn for each copy; all brought to unit length
    inference    [r_1 + w v + n_1, ...]             r: the K regions of the photo, v: its global embedding, w: `global_weight`; to unit length

Noise at inference too makes what a decoder is told then as rough as what it learned from; its draws depend on `Decoding.seed` alone, and a photo that
is to have several captions gets each from draws of its own, among which `rerank = "clip"` chooses, as MacCap does. Needs a backbone that can
encode regions, and a decoder whose mapper reads many rows (`mapper = "attention"` is MacCap's).
"""

from typing import TYPE_CHECKING

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


class RegionNoise:
    """`copies` is K in training, `regions` at inference (None: as many). One of `std`, `variance` (MacCap: 0.016 at D = 512) or `target_cosine`, as
    in gaussian_noise. `at_inference = false` leaves a photo's rows without noise. With `regions = 0`, and where a photo comes as its global embedding
    alone (a stored one), that is copied as a caption's is.

    Raises SettingError for values out of range, and for text that has several rows already: bridges that add rows come after this one
    (and if they look things up, they look up row 0, which here is the first region).
    """

    supervision = Supervision(0)

    def __init__(
        self,
        dim: int,
        copies: int = 10,
        regions: int | None = None,
        std: float | None = None,
        variance: float | None = None,
        target_cosine: float | None = None,
        global_weight: float = 1.0,
        at_inference: bool = True,
    ):
        if copies < 1 or (regions or 0) < 0 or global_weight < 0:
            came = f"copies = {copies}, regions = {regions}, global_weight = {global_weight}"
            raise SettingError(f"copies is 1 or more, regions and global_weight are 0 or more; {came} came.")
        self.std = one_of("region_noise", dim, std, variance, target_cosine)
        self.dim, self.copies, self.regions, self.global_weight = dim, copies, copies if regions is None else regions, global_weight
        self.draws = at_inference and self.std > 0

    @property
    def target_cosine(self) -> float:
        """Expected cosine between an embedding and its noised self."""
        return cosine_of(self.std, self.dim)

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        """Nothing is learned."""

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """K copies, each with a noise of its own."""
        if condition.embeddings.shape[1] != 1:
            raise SettingError("region_noise copies one embedding of a caption, and there are several rows: put it before the bridges that add rows.")
        return self._told(condition, F.normalize(condition.embeddings, dim=-1).expand(-1, self.copies, -1), generator)

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Regions with the global embedding in each."""
        unit = F.normalize(condition.embeddings, dim=-1)
        own, regions = unit[:, :1], unit[:, 1:]
        rows = regions + self.global_weight * own if regions.shape[1] else own.expand(-1, self.copies, -1)
        return self._told(condition, rows, generator if self.draws else None)

    def _told(self, condition: Condition, rows: Float[Tensor, "B K D"], generator: torch.Generator | None) -> Condition:
        if generator is not None and self.std:
            rows = rows + self.std * torch.randn(rows.shape, generator=generator).to(rows)
        rows = F.normalize(rows, dim=-1)
        mask = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return Condition(rows, mask, condition.prompts, condition.rows)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """It holds nothing."""

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "RegionNoise":
        """Three regions."""
        return cls(dim, 3, std=0.1)
