"""Nouns as a prompt for the language model: what is probably to be seen, said in words (ViECap, Fei et al. 2023; IFCap, Lee et al. 2024).

    training    the caption's own nouns, each left out with probability `drop`, so that the decoder neither trusts nor ignores them
    inference   nouns that at least `least` of the `count` captions nearest to the image have, the most frequent first (IFCap's filter by frequency)

Nouns are known by a lexicon of 1,300 words (nouns.py), and not by the 80 names of COCO's categories, with which a score on COCO would be flattered.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from capdec.errors import SettingError
from capdec.memory import Memory
from capdec.nearest import nearest
from capdec.nouns import nouns
from capdec.protocols import Condition, Supervision
from capdec.ptb import tokenize

if TYPE_CHECKING:
    from pathlib import Path

    from capdec.corpus import Corpus

MOST = 10  # nouns of one caption that are kept


class EntityPrompt:
    """`prompt` says where the nouns go; without any nouns there is no prompt. `most` nouns are said at most (ViECap: 10). `size` and `seed` are those
    of `capdec.memory.Memory`; a named memory has no words, so there is none here. The decoder must read prompts: all that come with capdec do.

    Raises SettingError for values that cannot be.
    """

    supervision = Supervision(0)
    looks_up = adds_only = True

    def __init__(
        self,
        dim: int,
        count: int = 9,
        least: int = 3,
        most: int = 10,
        drop: float = 0.4,
        prompt: str = "There are {} in the image.",
        size: int = 0,
        seed: int = 0,
    ):
        if not 1 <= least <= count or most < 1 or not 0 <= drop <= 1:
            came = f"count = {count}, least = {least}, most = {most}, drop = {drop}"
            raise SettingError(f"least lies between 1 and count, most is 1 or more, and drop in [0, 1]; {came} came.")
        if prompt.count("{}") != 1:
            raise SettingError(f"prompt needs one {{}}, where the nouns go; {prompt!r} came.")
        self.count, self.least, self.most, self.drop, self.prompt = count, least, most, drop, prompt
        self.memory = Memory(dim, size, None, seed)
        self.words: list[str] = []
        self.named = torch.empty(0, MOST, dtype=torch.int16)
        """The nouns of each row of the memory, as places in `words`; -1 where there are no more."""
        self.own: list[list[str]] | None = None

    def fit(self, corpus: "Corpus", images: Float[Tensor, "M D"] | None = None) -> None:
        self.memory.fit(corpus)
        self.own = [nouns(tokenize(text).split())[:MOST] for text in corpus.pairs.sources]
        self.words = sorted({word for said in self.own for word in said})
        place = {word: number for number, word in enumerate(self.words)}
        rows = torch.tensor([[place[word] for word in said] + [-1] * (MOST - len(said)) for said in self.own], dtype=torch.int16)
        self.named = rows[self.memory.kept]

    def from_text(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """Its own nouns, some left out; where it does not say of which rows of the corpus it is made, those of its neighbours."""
        if condition.rows is None or self.own is None:
            return self.from_image(condition, generator)
        found = [self.own[row] for row in condition.rows.tolist()]
        if generator is not None and self.drop:
            keep = (torch.rand(len(found), MOST, generator=generator) >= self.drop).tolist()
            found = [[word for word, kept in zip(said, some, strict=False) if kept] for said, some in zip(found, keep, strict=True)]
        return self._prompted(condition, found)

    def from_image(self, condition: Condition, generator: torch.Generator | None) -> Condition:
        """What the captions nearest to row 0 name."""
        queries, groups, unseen = self.memory.queries(replace(condition, embeddings=condition.embeddings[:, :1], mask=condition.mask[:, :1]))
        cosines, places = nearest(queries, self.memory.rows.to(queries.device), self.count, groups, unseen)
        found = []
        for near, seen in zip(self.named[places.cpu()].tolist(), (cosines > -torch.inf).tolist(), strict=True):
            said = Counter(word for row, visible in zip(near, seen, strict=True) if visible for word in row if word >= 0)
            found.append([self.words[word] for word, times in said.most_common() if times >= self.least])
        return self._prompted(condition, found)

    def _prompted(self, condition: Condition, found: Sequence[Sequence[str]]) -> Condition:
        said = [self.prompt.format(", ".join(words[: self.most])) if words else "" for words in found]
        before = condition.prompts or ("",) * len(said)
        return replace(condition, prompts=tuple(f"{first} {then}".strip() for first, then in zip(before, said, strict=True)))

    def tensors(self) -> dict[str, Tensor]:
        words = torch.tensor(list("\n".join(self.words).encode()), dtype=torch.uint8)
        return {**self.memory.tensors(), "words": words, "named": self.named}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.memory.restore(tensors)
        self.words, self.named = bytes(tensors["words"].tolist()).decode().split("\n"), tensors["named"]

    @classmethod
    def tiny(cls, folder: "Path", dim: int = 16) -> "EntityPrompt":
        """A memory of twenty rows that name dogs and grass."""
        bridge = cls(dim, count=3, least=1)
        rows = F.normalize(torch.randn(20, dim, generator=torch.Generator().manual_seed(0)), dim=-1)
        named = torch.tensor([[place % 2] + [-1] * (MOST - 1) for place in range(20)], dtype=torch.int16)
        bridge.restore({"memory": rows, "words": torch.tensor(list(b"dog\ngrass"), dtype=torch.uint8), "named": named})
        return bridge
