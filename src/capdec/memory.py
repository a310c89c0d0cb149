"""A memory of captions: unit-length text embeddings that a bridge looks an image up in. Held in bfloat16: 500,000 rows of 512 are 0.5 GB.

It is the corpus' own, or part of it, and travels with the captioner; or it is a folder of embeddings that is named, and a captioner keeps its
fingerprint alone. A caption of the corpus never sees what was said of its own photo, for an image will not find that either; in a folder's memory
that can be known only where it is of the corpus' own text, and of another text it is not looked for.
"""

import hashlib
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from capdec.errors import DataError, MismatchError, SettingError
from capdec.nearest import ROWS, nearest
from capdec.protocols import Condition

if TYPE_CHECKING:
    from capdec.corpus import Corpus


class Memory:
    """`size` keeps so many captions of the corpus, drawn by `seed` (0: all). `folder` names embeddings that `capdec train` made (--embeddings), of
    any text and the same backbone, to be used in place of the corpus'; `dataset` says of which dataset that text is, for the supervision flags.
    With `keep_texts` the captions themselves are kept too, as they were written: what `Decoding.rerank = "neighbours"` asks.

    Raises SettingError for a size below 0, DataError or MismatchError where the folder's embeddings are not there, of another width, or have changed.
    """

    def __init__(self, dim: int, size: int = 0, folder: str | None = None, seed: int = 0, dataset: str | None = None, keep_texts: bool = False):
        if size < 0:
            raise SettingError(f"size is 0 (all) or more; {size} came.")
        if dataset and not folder:
            raise SettingError("dataset says of which dataset a named memory is, and no memory was named: the corpus' own needs none.")
        if keep_texts and folder:
            raise SettingError("a folder of embeddings has no texts to keep: leave keep_texts out, or take the corpus' own memory.")
        self.dim, self.size, self.folder, self.seed, self.keep_texts = dim, size, folder, seed, keep_texts
        self.texts: list[str] = []
        self.names = tuple(dataset.split("+")) if dataset else ()
        self.rows = torch.empty(0, dim, dtype=torch.bfloat16)
        self.groups: Tensor | None = None
        """The photo of each row of the memory."""
        self.photos: Tensor | None = None
        """The photo of each row of the corpus."""
        self.kept: Tensor | None = None
        """The row of the corpus that each row of the memory is."""

    def fit(self, corpus: "Corpus") -> None:
        """Raises SettingError for a folder behind a bridge that moves text: its rows were not moved."""
        named = zip(corpus.pairs.image_ids, corpus.pairs.sources, strict=True)
        keys = [f"photo {key}" if key is not None else f"text {text}" for key, text in named]  # without a photo equal texts are one
        ids = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self.photos = torch.tensor([ids[key] for key in keys])
        if self.folder is not None:
            manifest = self.open(corpus.backbone)
            moved = still = self.rows[:8].float()
            for change in corpus.embeddings.changes:
                moved = change(moved)
            if not torch.allclose(moved, still, atol=0.02):
                raise SettingError(
                    f"the memory in {self.folder} stands behind a bridge that moves text, which its rows were not. Leave `memory` out."
                )
            self.groups = self.photos if manifest.get("text") == corpus.digest else None
            return
        kept = torch.arange(len(corpus))
        if self.size and self.size < len(corpus):
            kept = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(self.seed))[: self.size].sort().values
        self.rows = torch.empty(len(kept), self.dim, dtype=torch.bfloat16)
        for some in torch.arange(len(kept)).split(ROWS):
            self.rows[some] = corpus.embeddings[kept[some]].bfloat16()
        self.kept, self.groups = kept, self.photos[kept]
        self.texts = [corpus.pairs.targets[row] for row in kept.tolist()] if self.keep_texts else []

    def open(self, backbone: str) -> dict[str, Any]:
        """Takes the rows of the folder, which are to be of this backbone, and returns what the folder says of them."""
        self.rows, manifest = _stored(self.folder or "", self.dim, backbone)
        return manifest

    def recognise(self, corpus: "Corpus") -> None:
        """After `restore`: where it is of this corpus, that is known again, so that a caption does not see what was said of its photo."""
        again = Memory(self.dim, self.size, self.folder, self.seed)
        again.fit(corpus)
        if again.rows.shape == self.rows.shape and torch.allclose(again.rows.float(), self.rows.float(), atol=0.01):
            self.groups, self.photos, self.kept = again.groups, again.photos, again.kept

    def queries(self, condition: Condition) -> tuple[Float[Tensor, "Q D"], Int[Tensor, "N"] | None, Int[Tensor, "Q"] | None]:
        """Every row of the condition at unit length, the memory's groups, and which group each may not see: none, where the condition does not say of
        which rows of the corpus it is made. Raises SettingError where there is no memory yet."""
        if not len(self.rows):
            raise SettingError("there is no memory yet: it is there after training, or in a captioner that was loaded.")
        embeddings = F.normalize(condition.embeddings, dim=-1).flatten(0, 1).float()
        if condition.rows is None or self.groups is None or self.photos is None:
            return embeddings, None, None
        rows = condition.rows.cpu()
        photos = torch.where(rows >= 0, self.photos[rows.clamp(min=0)], -1)  # of none of the corpus: it may see all
        unseen = photos.repeat_interleave(condition.embeddings.shape[1])
        return embeddings, self.groups.to(embeddings.device), unseen.to(embeddings.device)

    def said_near(self, condition: Condition, count: int) -> list[list[tuple[str, float]]]:
        """For each row 0 of the condition the `count` nearest captions and their cosines. Raises SettingError where the texts were not kept."""
        if not self.texts:
            raise SettingError("this memory did not keep its texts: train with keep_texts = true in the bridge that has it.")
        queries = F.normalize(condition.embeddings[:, 0], dim=-1).float()
        cosines, places = nearest(queries, self.rows.to(queries.device), count)
        return [
            [(self.texts[place], cosine) for place, cosine in zip(*row, strict=True)] for row in zip(places.tolist(), cosines.tolist(), strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        if self.folder is not None:
            return {"fingerprint": self._fingerprint()}
        return {"memory": self.rows, **({"texts": _packed(self.texts)} if self.keep_texts else {})}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if self.folder is None:
            self.rows = tensors["memory"].bfloat16()
            self.texts = _unpacked(tensors["texts"]) if self.keep_texts else []
            return
        self.rows, _ = _stored(self.folder, self.dim)
        if not torch.equal(self._fingerprint(), tensors["fingerprint"].to(torch.uint8)):
            raise MismatchError(f"the memory in {self.folder} is not the one that this captioner was made with. Name that one, or train again.")

    def _fingerprint(self) -> Tensor:
        digest = hashlib.sha256(self.rows.reshape(-1).view(torch.uint8).numpy().data).digest()
        return torch.tensor(list(digest), dtype=torch.uint8)


def _packed(texts: list[str]) -> UInt8[Tensor, "bytes"]:
    return torch.frombuffer(bytearray(zlib.compress(json.dumps(texts, ensure_ascii=False).encode(), 9)), dtype=torch.uint8)


def _unpacked(packed: UInt8[Tensor, "bytes"]) -> list[str]:
    return list(json.loads(zlib.decompress(packed.numpy().tobytes())))


def _stored(folder: str, dim: int, backbone: str = "") -> tuple[Float[Tensor, "N D"], dict[str, Any]]:
    """The rows, and what the folder says of them."""
    files, path = sorted(Path(folder).glob("[0-9]*[0-9].npy")), Path(folder) / "manifest.json"
    remedy = "Name a folder that `capdec train --embeddings` filled, with the same backbone."
    if not files or not path.is_file():
        raise DataError(f"{folder} holds no embeddings. {remedy}")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if "text" not in manifest:
        raise DataError(f"{folder} holds embeddings that are not of text, and a memory is of captions. {remedy}")
    if backbone and manifest.get("backbone") != backbone:
        raise MismatchError(f"{folder} holds embeddings of {manifest.get('backbone')}, and the backbone is {backbone}. {remedy}")
    shards = [np.load(file, mmap_mode="r") for file in files]
    if shards[0].shape[1] != dim:
        raise MismatchError(f"the memory in {folder} is {shards[0].shape[1]} wide, the backbone's embeddings {dim}. Was it made with another one?")
    rows, at = torch.empty(sum(map(len, shards)), dim, dtype=torch.bfloat16), 0
    for shard in shards:
        rows[at : at + len(shard)] = torch.from_numpy(np.array(shard))
        at += len(shard)
    if len(rows) != manifest.get("rows"):
        raise DataError(f"{folder} holds {len(rows):,} of {manifest.get('rows'):,} embeddings: it was not finished. {remedy}")
    return rows, manifest
