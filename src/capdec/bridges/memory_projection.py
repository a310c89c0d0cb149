"""DeCap's bridge (Li, Zhu, Wen, Yang 2023, section 3.2): an image is told in terms of the captions that are known.

    weights = softmax(cos(image, m_i) / temperature)    ->    unit length of sum_i weights_i m_i        m_i: the memory, text embeddings

What comes out lies among texts, where the decoder was trained. It is also what an embedding was, on average, before noise was added to it; so which
temperature brings noised captions nearest to what else was said of their photo can be found on text alone.

DeCap trains its decoder on clean text. With `in_training` it is trained on projections too, of captions that were noised (by a bridge before this
one) and do not see their own photo's captions: it then reads in training what it will read of an image.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.errors import SettingError
from capdec.memory import Memory
from capdec.nearest import nearest, soft_nearest
from capdec.protocols import Condition, Supervision

if TYPE_CHECKING:
    from pathlib import Path

    from capdec.corpus import Corpus

DECAP = 0.01
TEMPERATURES = tuple(0.002 * 1.4**step for step in range(15))
TRIED = 500  # captions that a temperature is tried on


class MemoryProjection:
    """`temperature` is a number (DeCap's code: 0.01) or "auto": the one of fifteen that is best on text, DeCap's where no photo has two captions.
    `top_k` looks at the nearest rows only: the weight of the others is dropped, and the sum is off by at most twice that weight before it is brought
    to unit length. `size`, `memory` (a folder), its `dataset`, `keep_texts` and `seed` are those of
    `capdec.memory.Memory`.

    The sum is made in float32, chunk by chunk, and is exact. `dtype` may be set to "bfloat16" on the object: the sum is then rounded where that is
    faster, and what comes out has a cosine of 0.9999 or more with the exact projection (`capdec.nearest.soft_nearest`). Raises SettingError for
    values that cannot be, and what Memory raises.
    """

    supervision = Supervision(0)
    looks_up = True

    def __init__(
        self,
        dim: int,
        temperature: float | str = "auto",
        top_k: int = 0,
        size: int = 0,
        memory: str | None = None,
        dataset: str | None = None,
        keep_texts: bool = False,
        in_training: bool = False,
        seed: int = 0,
    ):
        if temperature != "auto" and not (isinstance(temperature, int | float) and temperature > 0):
            raise SettingError(f'temperature is a number above 0, or "auto"; {temperature!r} came. DeCap\'s is 0.01.')
        if top_k < 0:
            raise SettingError(f"top_k is 0 (all) or more; {top_k} came.")
        self.temperature, self.top_k, self.in_training, self.seed, self.dtype = temperature, top_k, in_training, seed, "float32"
        self.memory = Memory(dim, size, memory, seed, dataset, keep_texts)

    @property
    def chosen(self) -> dict[str, Any]:
        """What `fit` chose."""
        return {"temperature": self.temperature}

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        """Takes the memory from the corpus, and chooses the temperature."""
        self.memory.fit(corpus)
        if self.temperature == "auto":
            self.temperature = self._best_temperature(corpus)

    def _best_temperature(self, corpus: "Corpus") -> float:
        """Captions are noised as far as CapDec's estimate says (the mean largest coordinate of the difference of two captions of a photo) and
        projected without their photo's captions: which temperature brings them nearest to another caption of their photo?"""
        siblings = corpus.siblings()
        if not siblings:
            return DECAP
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.tensor(sorted(siblings))
        rows = rows[torch.randperm(len(rows), generator=generator)[:TRIED]]
        said = corpus.embeddings[rows]
        others = corpus.embeddings[torch.tensor([siblings[row][0] for row in rows.tolist()])]
        std = (said - others).abs().amax(1).mean()
        noised = Condition.of(F.normalize(said + std * torch.randn(said.shape, generator=generator), dim=-1), rows)

        nearness = [float((self._projected(noised, one)[:, 0] * others).sum(-1).mean()) for one in TEMPERATURES]
        return round(TEMPERATURES[nearness.index(max(nearness))], 4)

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """As it is, or with `in_training` projected without the captions of its own photo."""
        return self.from_image(condition, generator) if self.in_training else condition

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Every row projected. Where the condition says which rows of the corpus it is made of, the captions of their photos are not looked at."""
        if self.temperature == "auto":
            raise SettingError('temperature = "auto" was not chosen yet: training chooses it.')
        return condition.with_embeddings(self._projected(condition, float(self.temperature), self.dtype))

    def _projected(self, condition: Condition, temperature: float, dtype: str = "float32") -> Float[Tensor, "B K D"]:
        queries, groups, unseen = self.memory.queries(condition)
        rows = self.memory.rows.to(queries.device)
        if self.top_k:
            cosines, places = nearest(queries, rows, self.top_k, groups, unseen)
            weights = torch.softmax(cosines / temperature, dim=-1).nan_to_num(0).unsqueeze(1)  # (B K, 1, k); all hidden: zero
            some = zip(weights.split(64), places.split(64), strict=True)
            total = torch.cat([(weight @ rows[place].float()).squeeze(1) for weight, place in some])
        else:
            total = soft_nearest(queries, rows, temperature, groups, unseen, dtype=dtype)
        return F.normalize(total, dim=-1).view(condition.embeddings.shape)

    def tensors(self) -> dict[str, Tensor]:
        return self.memory.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.memory.restore(tensors)

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "MemoryProjection":
        """With a memory of twenty rows."""
        bridge = cls(dim, temperature=0.1)
        bridge.restore({"memory": F.normalize(torch.randn(20, dim, generator=torch.Generator().manual_seed(0)), dim=-1)})
        return bridge
