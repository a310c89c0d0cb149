"""A corpus: captions, and the embeddings of what they are to be told from, computed once.

An item is (source, target): the source is embedded, the target is what the decoder learns to say. CapDec: the same caption twice. A style or a
language joins the two by `image_id`. The store is a folder of shards (`00000.npy`: unit-length float32 rows, `00000.norms.npy`: their lengths before)
beside a manifest that names the backbone and the text; it is memory-mapped, a cut-off run continues, and a store of something else is refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capdec import parts
from capdec.checkpoint import replacing, write_json
from capdec.errors import DataError, MismatchError, SettingError
from capdec.protocols import Backbone, Condition, Dataset

SHARD = 16_384


@dataclass(frozen=True)
class Pairs:
    """Text alone: what is embedded, what is learned, and of which photo it speaks."""

    sources: list[str]
    targets: list[str]
    image_ids: list[str | None]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for row in zip(self.sources, self.targets, self.image_ids, strict=True):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


def open_dataset(spec: str | dict[str, Any], **settings: Any) -> Dataset:
    """A dataset from a path whose ending or content a dataset part recognises, or from a table of name and settings. Raises SettingError."""
    if isinstance(spec, dict):
        return parts.build("datasets", spec, **settings)
    classes: list[type[Dataset]] = [parts.find("datasets", name) for name in parts.names("datasets")]
    for part in classes:
        if part.recognises(spec):
            return parts.build("datasets", {"name": part.__module__.rpartition(".")[2], "path": spec}, **settings)
    endings = sorted({suffix for part in classes for suffix in part.suffixes})
    raise SettingError(
        f"{spec}: no dataset part recognises this file. Known endings: {', '.join(endings)}. Name the part in a recipe's `captions` table."
    )


def read_pairs(targets: Dataset, sources: Dataset | None = None) -> Pairs:
    """Every caption of `targets`. Its source is itself, or what the dataset says; with `sources`, each caption there of the same image in turn.
    Raises DataError where nothing is left."""
    pairs = Pairs([], [], [])
    others = {example.image_id: example.captions for example in sources if example.image_id is not None} if sources is not None else None
    for example in targets:
        for index, target in enumerate(example.captions):
            if others is None:
                source: str | None = example.sources[index] if example.sources else target
            else:
                found = others.get(example.image_id or "", ())
                source = found[index % len(found)] if found else None
            if source is not None and source.strip() and target.strip():
                pairs.sources.append(source.strip())
                pairs.targets.append(target.strip())
                pairs.image_ids.append(example.image_id)
    if not pairs:
        raise DataError("the corpus is empty: no captions were read" + (", or no image_id is in both files." if sources is not None else "."))
    return pairs


class Embeddings:
    """The rows of a store. `embeddings[rows]` copies them; `chunks()` walks through all of them."""

    def __init__(self, folder: Path, rows: int, dim: int):
        self.rows, self.dim = rows, dim
        self.shards = [np.load(folder / f"{start // SHARD:05d}.npy", mmap_mode="r") for start in range(0, rows, SHARD)]
        self.norms = np.concatenate([np.load(folder / f"{start // SHARD:05d}.norms.npy") for start in range(0, rows, SHARD)])

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        wanted = rows.numpy()
        result = np.empty((len(wanted), self.dim), np.float32)
        for shard in np.unique(wanted // SHARD):
            here = wanted // SHARD == shard
            result[here] = self.shards[shard][wanted[here] % SHARD]
        return torch.from_numpy(result)

    def chunks(self) -> Iterator[Float[Tensor, "B D"]]:
        for shard in self.shards:
            yield torch.from_numpy(np.array(shard))


@dataclass(frozen=True)
class Corpus:
    pairs: Pairs
    embeddings: Embeddings

    def __len__(self) -> int:
        return len(self.pairs)

    def condition(self, rows: Int[Tensor, "B"]) -> Condition:
        return Condition.of(self.embeddings[rows], rows)

    def targets(self, rows: Int[Tensor, "B"]) -> list[str]:
        return [self.pairs.targets[row] for row in rows.tolist()]

    def siblings(self) -> dict[int, list[int]]:
        """For each row the other rows of its photo that say something else; only rows that have any."""
        groups: dict[str, list[int]] = {}
        for row, image in enumerate(self.pairs.image_ids):
            if image is not None:
                groups.setdefault(image, []).append(row)
        texts = self.pairs.targets
        found = {row: [other for other in group if texts[other] != texts[row]] for group in groups.values() if len(group) > 1 for row in group}
        return {row: others for row, others in found.items() if others}

    def split(self, share: float, seed: int) -> tuple[Int[Tensor, "N"], Int[Tensor, "M"]]:
        """Rows to learn from and rows held out: whole photos where ids are known, else equal texts together."""

        def held(row: int) -> bool:
            key = self.pairs.image_ids[row] or self.pairs.targets[row]
            return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8]) < share * 2**64

        flags = torch.tensor([held(row) for row in range(len(self))])
        return (~flags).nonzero().flatten(), flags.nonzero().flatten()


def embed(pairs: Pairs, backbone: Backbone, folder: Path | str, progress: Callable[[int, int], None] | None = None) -> Corpus:
    """The corpus with its embeddings, computed where they are not in `folder` yet. Raises MismatchError where `folder` holds others."""
    folder = Path(folder)
    manifest = {
        "format_version": 1,
        "backbone": backbone.fingerprint,
        "text": _digest(pairs.sources),
        "rows": len(pairs),
        "dim": backbone.dim,
        "shard": SHARD,
    }
    path = folder / "manifest.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [f"{key} is {found.get(key)!r}, wanted {value!r}" for key, value in manifest.items() if found.get(key) != value]
        if differing:
            raise MismatchError(f"{folder} holds the embeddings of something else ({'; '.join(differing)}). Name another folder, or delete this one.")
    write_json(path, manifest)
    for start in range(0, len(pairs), SHARD):
        rows, norms = folder / f"{start // SHARD:05d}.npy", folder / f"{start // SHARD:05d}.norms.npy"
        if not (rows.is_file() and norms.is_file()):
            end = min(start + SHARD, len(pairs))
            values = np.empty((end - start, backbone.dim), np.float32)
            for at in range(start, end, 1024):
                part = backbone.encode_text(pairs.sources[at : min(at + 1024, end)], normalize=False)
                values[at - start : at - start + len(part)] = part.float().cpu().numpy()
                if progress:
                    progress(min(at + 1024, end), len(pairs))
            lengths = np.linalg.norm(values, axis=1)
            _write_array(norms, lengths)
            _write_array(rows, values / np.maximum(lengths, 1e-12)[:, None])
    return Corpus(pairs, Embeddings(folder, len(pairs), backbone.dim))


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _write_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
