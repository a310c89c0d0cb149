"""DeCap's bridge (Li, Zhu, Wen, Yang 2023, section 3.2): an image is told in terms of the captions that are known.

    weights = softmax(cos(image, m_i) / temperature)    ->    unit length of sum_i weights_i m_i        m_i: the memory, text embeddings

What comes out lies among texts, where the decoder was trained. It is also what an embedding was, on average, before noise was added to it; so which
temperature brings noised captions nearest to what else was said of their photo can be found on text alone.

DeCap trains its decoder on clean text. With `in_training` it is trained on projections too, of captions that were noised (by a bridge before this
one) and do not see their own photo's captions: it then reads in training what it will read of an image.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.errors import DataError, MismatchError, SettingError
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
    to unit length. `size` keeps so many captions of the corpus, drawn by `seed` (0: all). `memory` names a folder of embeddings that `capdec train`
    made (--embeddings), of any text and the same backbone: it is used in place of the corpus, and a captioner keeps its fingerprint alone.

    The memory is held in bfloat16 and the sum is made in float32: 500,000 rows of 512 are 0.5 GB.
    Raises SettingError for values that cannot be, DataError or MismatchError where `memory` is not there or has changed.
    """

    supervision = Supervision(0)

    def __init__(
        self,
        dim: int,
        temperature: float | str = "auto",
        top_k: int = 0,
        size: int = 0,
        memory: str | None = None,
        in_training: bool = False,
        seed: int = 0,
    ):
        if temperature != "auto" and not (isinstance(temperature, int | float) and temperature > 0):
            raise SettingError(f'temperature is a number above 0, or "auto"; {temperature!r} came. DeCap\'s is 0.01.')
        if top_k < 0 or size < 0:
            raise SettingError(f"top_k and size are 0 (all) or more; top_k = {top_k}, size = {size} came.")
        self.dim, self.temperature, self.top_k, self.size, self.seed = dim, temperature, top_k, size, seed
        self.folder, self.in_training = memory, in_training
        self.rows = torch.empty(0, dim, dtype=torch.bfloat16)
        self.groups: Tensor | None = None
        self.photos: Tensor | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """What `fit` chose."""
        return {"temperature": self.temperature}

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        """Takes the memory from the corpus, and chooses the temperature."""
        ids = {key: place for place, key in enumerate(dict.fromkeys(corpus.pairs.image_ids))}
        alone = torch.arange(len(corpus)) + len(ids)  # a caption that belongs to no photo has only itself to leave out
        named = [ids[key] if key is not None else int(alone[row]) for row, key in enumerate(corpus.pairs.image_ids)]
        self.photos = torch.tensor(named)
        if self.folder is not None:
            self.rows = _stored(self.folder, self.dim)
        else:
            kept = torch.arange(len(corpus))
            if self.size and self.size < len(corpus):
                kept = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(self.seed))[: self.size].sort().values
            self.rows = torch.empty(len(kept), self.dim, dtype=torch.bfloat16)
            for some in torch.arange(len(kept)).split(16_384):
                self.rows[some] = corpus.embeddings[kept[some]].bfloat16()
            self.groups = self.photos[kept]
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
        if not len(self.rows) or self.temperature == "auto":
            raise SettingError("memory_projection has no memory yet: it is there after training, or in a captioner that was loaded.")
        return condition.with_embeddings(self._projected(condition, float(self.temperature)))

    def _projected(self, condition: Condition, temperature: float) -> Float[Tensor, "B K D"]:
        batch, count, _ = condition.embeddings.shape
        queries = F.normalize(condition.embeddings, dim=-1).flatten(0, 1).float()
        groups, unseen = None, None
        if condition.rows is not None and self.groups is not None and self.photos is not None:
            groups, unseen = self.groups.to(queries.device), self.photos[condition.rows.cpu()].to(queries.device).repeat_interleave(count)
        rows = self.rows.to(queries.device)
        if self.top_k:
            cosines, places = nearest(queries, rows, self.top_k, groups, unseen)
            weights = torch.softmax(cosines / temperature, dim=-1).unsqueeze(1)  # (B K, 1, k)
            some = zip(weights.split(64), places.split(64), strict=True)
            total = torch.cat([(weight @ rows[place].float()).squeeze(1) for weight, place in some])
        else:
            total = soft_nearest(queries, rows, temperature, groups, unseen)
        return F.normalize(total, dim=-1).view(batch, count, self.dim)

    def tensors(self) -> dict[str, Tensor]:
        return {"memory": self.rows} if self.folder is None else {"fingerprint": _fingerprint(self.rows)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if self.folder is None:
            self.rows = tensors["memory"].bfloat16()
            return
        self.rows = _stored(self.folder, self.dim)
        if not torch.equal(_fingerprint(self.rows), tensors["fingerprint"].to(torch.uint8)):
            raise MismatchError(f"the memory in {self.folder} is not the one that this captioner was made with. Name that one, or train again.")

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "MemoryProjection":
        """With a memory of twenty rows."""
        bridge = cls(dim, temperature=0.1)
        bridge.rows = F.normalize(torch.randn(20, dim, generator=torch.Generator().manual_seed(0)), dim=-1).bfloat16()
        return bridge


def _stored(folder: str, dim: int) -> Float[Tensor, "N D"]:
    """The rows of an embeddings folder. Raises DataError where there is none, MismatchError where they have another width."""
    from pathlib import Path

    files = sorted(Path(folder).glob("[0-9]*[0-9].npy"))
    if not files:
        raise DataError(f"{folder} holds no embeddings. Name a folder that `capdec train --embeddings` filled, with the same backbone.")
    shards = [np.load(file, mmap_mode="r") for file in files]
    if shards[0].shape[1] != dim:
        raise MismatchError(f"the memory in {folder} is {shards[0].shape[1]} wide, the backbone's embeddings {dim}. Was it made with another one?")
    rows, at = torch.empty(sum(map(len, shards)), dim, dtype=torch.bfloat16), 0
    for shard in shards:
        rows[at : at + len(shard)] = torch.from_numpy(np.array(shard))
        at += len(shard)
    return rows


def _fingerprint(rows: Tensor) -> Tensor:
    digest = hashlib.sha256(rows.contiguous().view(torch.int16).numpy().tobytes()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)
