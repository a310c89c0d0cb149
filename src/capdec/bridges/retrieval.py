"""Neighbours as further rows of the condition: what others said of what looks like this (Knight, Wang et al. 2023; IFCap, Lee et al. 2024).

    [x]   ->   [x, m_1, ..., m_K]        m: the K captions of the memory nearest to x, nearest first

In training a caption finds its nearest neighbours too well: nearer than an image will. IFCap's image-like retrieval adds noise before it looks
(`target_cosine`), so that a decoder sees the neighbours that an image would find. Captions of its own photo are never among them.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.errors import SettingError
from capdec.memory import Memory
from capdec.nearest import nearest
from capdec.noise import std_of
from capdec.protocols import Condition, Supervision

if TYPE_CHECKING:
    from pathlib import Path

    from capdec.corpus import Corpus


class Retrieval:
    """`count` neighbours. `target_cosine` is of the noise in training, before it looks: the expected cosine of the noised embedding with the clean
    one, which an earlier noise has moved already (1: none; IFCap's variance of 0.04 at D = 1024 is 0.154); row 0 itself stays as it is. With
    `replace` the neighbours alone are told, as in Knight. `size`, `memory` (a folder), its `dataset`, `keep_texts` and `seed` are those of
    `capdec.memory.Memory`.

    Raises SettingError for values out of range, and what Memory raises.
    """

    supervision = Supervision(0)
    looks_up = True

    def __init__(
        self,
        dim: int,
        count: int = 5,
        target_cosine: float = 1.0,
        replace: bool = False,
        size: int = 0,
        memory: str | None = None,
        dataset: str | None = None,
        keep_texts: bool = False,
        seed: int = 0,
    ):
        if count < 1 or not 0 < target_cosine <= 1:
            raise SettingError(f"count is 1 or more and target_cosine in (0, 1]; count = {count}, target_cosine = {target_cosine} came.")
        self.count, self.target_cosine, self.replace, self.adds_only = count, target_cosine, replace, not replace
        self.std = std_of(target_cosine, dim)
        self.memory = Memory(dim, size, memory, seed, dataset, keep_texts)

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        self.memory.fit(corpus)

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Neighbours of the noised row 0."""
        own = F.normalize(condition.embeddings[:, :1], dim=-1)
        if generator is not None and self.std:
            own = own + self.std * torch.randn(own.shape, generator=generator).to(own)
        return self._with_neighbours(condition, own)

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Neighbours of row 0. Rows that were there already stay, behind them."""
        return self._with_neighbours(condition, condition.embeddings[:, :1])

    def _with_neighbours(self, condition: Condition, own: Float[Tensor, "B 1 D"]) -> Condition:
        queries, groups, unseen = self.memory.queries(Condition.of(own, condition.rows))
        rows = self.memory.rows.to(queries.device)
        cosines, places = nearest(queries, rows, self.count, groups, unseen)
        near, seen = rows[places].to(condition.embeddings), cosines > -torch.inf
        near = near * seen.unsqueeze(-1)  # a memory of its own photo alone has nothing to show
        first, rest = (condition.embeddings[:, :1], condition.mask[:, :1]), (condition.embeddings[:, 1:], condition.mask[:, 1:])
        parts = [*([] if self.replace else [first]), (near, seen), rest]
        embeddings, mask = torch.cat([part for part, _ in parts], 1), torch.cat([part for _, part in parts], 1)
        return Condition(embeddings, mask, condition.prompts, condition.rows)

    def tensors(self) -> dict[str, Tensor]:
        return self.memory.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.memory.restore(tensors)

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "Retrieval":
        """Two neighbours of twenty."""
        bridge = cls(dim, 2, 0.5)
        bridge.restore({"memory": F.normalize(torch.randn(20, dim, generator=torch.Generator().manual_seed(0)), dim=-1)})
        return bridge
