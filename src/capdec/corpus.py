"""A corpus: captions, and the embeddings of what they are to be told from, computed once.

An item is (source, target): the source is embedded, the target is what the decoder learns to say. CapDec: the same caption twice. A style or a
language joins the two by `image_id`. The store is a folder of shards (`00000.npy`: unit-length float32 rows, `00000.norms.npy`: their lengths before)
beside a manifest that names the backbone and the text; it is memory-mapped, a cut-off run continues, and a store of something else is refused.

Photos are embedded here for two things only, and a captioner that had either says so: the paired upper bound, where a caption is told from its own
photo, and the statistics of unpaired images that some bridges ask for.
"""

import glob
import hashlib
import itertools
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capdec import parts
from capdec.checkpoint import replacing, write_json
from capdec.errors import DataError, ImageError, MismatchError, SettingError
from capdec.images import Opened, open_batches
from capdec.protocols import Backbone, Condition, Dataset, Example

if TYPE_CHECKING:
    from PIL.Image import Image

SHARD = 16_384
PHOTOS = 32  # at a time through a backbone
TEXTS = 4096  # at a time to a backbone, which puts like lengths together: the more, the less padding


@dataclass(frozen=True)
class Pairs:
    """Text alone: what is embedded, what is learned, of which photo it speaks, and in which style, where there are several; and how many captions of
    each style were left out when it was read, since no source is of their photo."""

    sources: list[str]
    targets: list[str]
    image_ids: list[str | None]
    styles: list[str] | None = None
    unjoined: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    def where(self, keep: Sequence[bool]) -> "Pairs":
        """Some of the rows, in their order."""

        def kept(values: list) -> list:
            return [value for value, wanted in zip(values, keep, strict=True) if wanted]

        return Pairs(kept(self.sources), kept(self.targets), kept(self.image_ids), None if self.styles is None else kept(self.styles))

    def at_most(self, count: int, seed: int) -> "Pairs":
        """About so many captions, and all captions of a photo or none: photos (or captions without one) are taken in an order that the seed decides
        until there are enough, so that a smaller corpus is part of a larger one."""
        keys = [image or f"row {row}" for row, image in enumerate(self.image_ids)]
        sizes: dict[str, int] = {}
        for key in keys:
            sizes[key] = sizes.get(key, 0) + 1
        taken: set[str] = set()
        for key in sorted(sizes, key=lambda key: hashlib.sha256(f"part {seed} {key}".encode()).digest()):  # another order than split's
            if count <= 0:
                break
            taken.add(key)
            count -= sizes[key]
        return self.where([key in taken for key in keys])

    @property
    def known_styles(self) -> list[str]:
        """In the order in which they come; "" where some captions have none. Empty where none has one."""
        return list(dict.fromkeys(self.styles or ()))

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for row in zip(self.sources, self.targets, self.image_ids, *([self.styles] if self.styles else []), strict=True):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


Spec = str | dict[str, Any] | list[Any]
"""A file, a table of a dataset part, or a list of these."""


def open_dataset(spec: Spec) -> Dataset:
    """A dataset from a table of name and settings, or from a path whose ending or content a dataset part recognises; a table without a name is a path
    with settings, and `as` in a table names the style in which its captions speak. A list is one dataset after another. Raises SettingError,
    DataError where a file is not there."""
    if isinstance(spec, list):
        return _Several([open_dataset(one) for one in spec])
    table = {"path": spec} if isinstance(spec, str) else dict(spec)
    style = str(table.pop("as", ""))
    dataset = parts.build("datasets", table if "name" in table else {"name": dataset_part(table.get("path", "")), **table})
    return _Several([dataset], style) if style else dataset


class _Several:
    """Datasets one after another. Raises SettingError for none."""

    suffixes: tuple[str, ...] = ()

    def __init__(self, datasets: Sequence[Dataset], style: str = ""):
        if not datasets:
            raise SettingError("an empty list of datasets came. Name a file, or several.")
        self.datasets, self.style = datasets, style
        self.name = "+".join(sorted({name for dataset in datasets if dataset.name for name in dataset.name.split("+")})) or None
        splits = {dataset.split for dataset in datasets}
        self.split = splits.pop() if len(splits) == 1 else None

    @classmethod
    def recognises(cls, path: str) -> bool:
        return False

    def __iter__(self) -> Iterator[Example]:
        for dataset in self.datasets:
            for example in dataset:
                yield replace(example, style=self.style) if self.style else example


def dataset_part(path: str) -> str:
    """The name of the dataset part that reads this file. Raises SettingError, DataError where it is not there."""
    classes: list[type[Dataset]] = [parts.find("datasets", name) for name in parts.names("datasets")]
    for part in classes:
        if part.recognises(path):
            return part.__module__.rpartition(".")[2]
    if not glob.has_magic(path) and not Path(path).exists():
        raise DataError(
            f"{path or 'a file without a name'} does not exist. Check the path. (Datasets by name: {', '.join(parts.names('datasets'))}.)"
        )
    endings = sorted({suffix for part in classes for suffix in part.suffixes})
    raise SettingError(
        f"{path}: no dataset part recognises this file. Known endings: {', '.join(endings)}, of which .json is told by what is in it: is the file "
        f"whole? Or name the part: a table with `name` in a recipe."
    )


def read_pairs(targets: Dataset, sources: Dataset | None = None) -> Pairs:
    """Every caption of `targets`. Its source is itself, or what the dataset says; with `sources`, a caption there of the same image, all of them in
    turn: one target of a photo with five sources makes five pairs; what has no source there is `unjoined`. Raises DataError where nothing is left."""
    pairs, styles, unjoined = Pairs([], [], []), [], Counter[str]()
    others: dict[str | None, list[str]] = {}
    for example in sources or ():
        if example.image_id is not None:
            others.setdefault(example.image_id, []).extend(example.captions)
    for example in targets if sources is None else _photo_by_photo(targets):
        said: Sequence[str] = example.captions
        found: Sequence[str] = example.sources or example.captions
        if sources is not None:
            found = others.get(example.image_id, ())
            if not found:
                unjoined[example.style] += len(said)
        for index in range(max(len(said), len(found)) if said and found else 0):
            source, target = whole(found[index % len(found)]).strip(), whole(said[index % len(said)]).strip()
            if source and target:
                pairs.sources.append(source)
                pairs.targets.append(target)
                pairs.image_ids.append(example.image_id if example.image_id is None else whole(example.image_id))
                styles.append(example.style)
    if not pairs:
        raise DataError("the corpus is empty: no captions were read" + (", or no image_id is in both files." if sources is not None else "."))
    return replace(pairs, styles=styles if any(styles) else None, unjoined=unjoined)


def whole(text: str) -> str:
    """Without halves of characters, which JSON can hold and no tokenizer reads."""
    return text if text.isascii() else text.encode("utf-8", "ignore").decode()


def _photo_by_photo(examples: Iterable[Example]) -> list[Example]:
    """A photo's captions may come a row each; together are those in one style."""
    found: dict[tuple[str | None, str], list[str]] = {}
    for example in examples:
        found.setdefault((example.image_id, example.style), []).extend(example.captions)
    return [Example(tuple(captions), image_id, style=style) for (image_id, style), captions in found.items()]


class Embeddings:
    """Unit-length rows of a store. `embeddings[rows]` copies them, `chunks()` walks through all of them. `select(rows)` is a view: there row n is row
    rows[n] of this one, so that the captions of one photo can share its embedding. `through(change)` is a view whose rows are changed when read."""

    def __init__(self, folder: Path, rows: int, dim: int):
        self.dim, self.index = dim, torch.arange(rows)
        self.changes: tuple[Callable[[Tensor], Tensor], ...] = ()
        self.shards = [np.load(folder / f"{start // SHARD:05d}.npy", mmap_mode="r") for start in range(0, rows, SHARD)]
        self.norms = np.concatenate([np.load(folder / f"{start // SHARD:05d}.norms.npy") for start in range(0, rows, SHARD)])

    def select(self, rows: Int[Tensor, "M"]) -> "Embeddings":
        view = copy(self)
        view.index, view.norms = self.index[rows], self.norms[rows.numpy()]
        return view

    def through(self, change: Callable[[Float[Tensor, "B D"]], Float[Tensor, "B D"]]) -> "Embeddings":
        view = copy(self)
        view.changes = (*self.changes, change)
        return view

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        wanted = self.index[rows].numpy()
        result = np.empty((len(wanted), self.dim), np.float32)
        for shard in np.unique(wanted // SHARD):
            here = wanted // SHARD == shard
            result[here] = self.shards[shard][wanted[here] % SHARD]
        changed = torch.from_numpy(result)
        for change in self.changes:
            changed = change(changed)
        return changed

    def chunks(self) -> Iterator[Float[Tensor, "B D"]]:
        for rows in torch.arange(len(self)).split(SHARD):
            yield self[rows]


@dataclass(frozen=True)
class Corpus:
    """`photos` says which row of the images that bridges are fitted on is of which image_id. A bridge that looks there is one that uses pairs."""

    pairs: Pairs
    embeddings: Embeddings
    photos: Mapping[str, int] = field(default_factory=dict)
    backbone: str = ""
    """The fingerprint of what made the embeddings."""

    @property
    def digest(self) -> str:
        """Of the texts that were embedded, as a store's manifest has it."""
        return text_digest(self.pairs.sources)

    def __len__(self) -> int:
        return len(self.pairs)

    def condition(self, rows: Int[Tensor, "B"]) -> Condition:
        return Condition.of(self.embeddings[rows], rows)

    def style(self, row: int) -> str:
        return self.pairs.styles[row] if self.pairs.styles else ""

    @property
    def styles(self) -> list[str]:
        return self.pairs.known_styles

    def evened(self, rows: Int[Tensor, "N"]) -> Int[Tensor, "M"]:
        """These rows, those of a rarer style several times, so that equally many are of each."""
        of_each: dict[str, list[int]] = {}
        for row in rows.tolist():
            of_each.setdefault(self.style(row), []).append(row)
        most = max(map(len, of_each.values()), default=0)
        return torch.tensor([row for some in of_each.values() for row in itertools.islice(itertools.cycle(some), most)], dtype=torch.long)

    def targets(self, rows: Int[Tensor, "B"]) -> list[str]:
        return [self.pairs.targets[row] for row in rows.tolist()]

    def within(self, least: float, most: float) -> "Corpus":
        """The rows whose embeddings were so long before they were brought to unit length. Raises DataError where there is none."""
        norms = self.embeddings.norms
        keep = (norms >= least) & (norms <= most)
        if not keep.any():
            low, middle, high = np.quantile(norms, [0.05, 0.5, 0.95])
            raise DataError(
                f"no embedding is between {least} and {most} long: 90 % are between {low:.2f} and {high:.2f}, half of them below {middle:.2f}. "
                f"Choose training.norms by these."
            )
        rows = torch.from_numpy(keep.nonzero()[0])
        return replace(self, pairs=self.pairs.where(keep.tolist()), embeddings=self.embeddings.select(rows))

    def siblings(self) -> dict[int, list[int]]:
        """For each row the other rows of its photo that say something else in the same style, or are told from something else; only rows that have
        any."""
        groups: dict[tuple[str, str], list[int]] = {}
        for row, image in enumerate(self.pairs.image_ids):
            if image is not None:
                groups.setdefault((image, self.style(row)), []).append(row)
        said = list(zip(self.pairs.sources, self.pairs.targets, strict=True))
        found = {row: [other for other in group if said[other] != said[row]] for group in groups.values() if len(group) > 1 for row in group}
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

    def encode(start: int, end: int) -> Tensor:
        return backbone.encode_text(pairs.sources[start:end], normalize=False)

    before = getattr(backbone, "truncated", 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ of \d+ captions", UserWarning)  # of each batch; here is one of all
        _fill(Path(folder), backbone, {"text": text_digest(pairs.sources)}, len(pairs), encode, progress, backbone.dim, TEXTS)
    if cut := getattr(backbone, "truncated", 0) - before:
        warnings.warn(f"{cut} of {len(pairs)} captions are longer than the backbone reads: their ends were cut.", stacklevel=2)
    return Corpus(pairs, Embeddings(Path(folder), len(pairs), backbone.dim), backbone=backbone.fingerprint)


@dataclass(frozen=True)
class Photos:
    """Photos of a dataset by their ids, in its order: what opens them, and what was written about them."""

    ids: list[str]
    openers: "list[Callable[[], Image]]"

    @classmethod
    def of(cls, dataset: Dataset) -> "Photos":
        """Raises DataError where there is none."""
        found = {example.image_id or f"photo {place}": example.open_image for place, example in enumerate(dataset)}
        photos = {image_id: opener for image_id, opener in found.items() if opener is not None}
        if not photos:
            raise DataError("the dataset has no photos, but text alone. Name the photos' folder, or WebDataset shards.")
        return cls(list(photos), list(photos.values()))


def encode_photos(
    backbone: Backbone, images: "Sequence[Image]", regions: int = 0, normalize: bool = True
) -> Float[Tensor, "B D"] | Float[Tensor, "B K D"]:
    """Global embeddings; where regions are asked for, those behind them, and all of unit length. Raises SettingError where the backbone cannot."""
    if not regions:
        return backbone.encode_image(images, normalize)
    if not hasattr(backbone, "encode_regions"):
        name = type(backbone).__name__
        raise SettingError(f"{name} cannot encode regions, which a bridge here wants. Take mini or huggingface with a CLIP, or another bridge.")
    return backbone.encode_regions(images, regions)


def opened_photos(
    openers: "Iterable[Callable[[], Opened]]", backbone: Backbone, batch: int = PHOTOS, workers: int | None = None
) -> "Iterator[list[Opened | ImageError]]":
    """Photos, or lists of a clip's frames, in batches and in order, as small as the backbone sees them where it says so. In threads: while the
    backbone works on a batch, the next are opened. Not on two cores: there both are wanted by the tower, and threads beside it hold it up for longer
    than they take."""
    on_few_cores = str(getattr(backbone, "device", "cpu")).startswith("cpu") and (os.cpu_count() or 1) <= 2
    fit_photo: Any = getattr(backbone, "fit_photo", None)

    def fit(opened: Any) -> Any:
        return [fit_photo(frame) for frame in opened] if isinstance(opened, list) else fit_photo(opened)

    ahead = 0 if on_few_cores or fit_photo is None else 2  # photos at their full size are many bytes
    return open_batches(openers, batch, fit if fit_photo else None, ahead, workers)


def embed_photos(
    photos: Photos, backbone: Backbone, folder: Path | str, progress: Callable[[int, int], None] | None = None, regions: int = 0
) -> tuple[Embeddings, dict[str, int]]:
    """Embeddings of the photos, computed where they are not in `folder` yet, and the row of each id. A photo that cannot be opened has no row, and a
    warning counts them. With `regions` a row is (1 + regions) x D wide: the global embedding and behind it the regions, all of one length. Raises
    MismatchError where `folder` holds others."""
    dim, what = backbone.dim * (1 + regions), {"photos": text_digest(photos.ids), **({"regions": str(regions)} if regions else {})}

    def encode(start: int, end: int) -> Tensor:
        rows = torch.zeros(end - start, dim)  # those of photos that cannot be opened stay zero
        for number, opened in enumerate(opened_photos(photos.openers[start:end], backbone)):
            found = {number * PHOTOS + place: image for place, image in enumerate(opened) if not isinstance(image, ImageError)}
            if found:
                rows[list(found)] = encode_photos(backbone, list(found.values()), regions, normalize=False).flatten(1).float().cpu()
        return rows

    _fill(Path(folder), backbone, what, len(photos.ids), encode, progress, dim)
    embeddings = Embeddings(Path(folder), len(photos.ids), dim)
    for row in np.flatnonzero(embeddings.norms == 0).tolist():  # what could not be opened then may have been mended since
        if float(encode(row, row + 1).norm()) > 0:
            shard = row // SHARD
            for file in Path(folder).glob(f"{shard:05d}.*npy"):
                file.unlink()
            return embed_photos(photos, backbone, folder, progress, regions)
    usable = np.flatnonzero(embeddings.norms > 0).tolist()
    if len(usable) < len(photos.ids):
        warnings.warn(f"{len(photos.ids) - len(usable)} of {len(photos.ids)} photos could not be opened and are left out.", stacklevel=2)
    return embeddings.select(torch.tensor(usable).long()), {photos.ids[place]: row for row, place in enumerate(usable)}


def told_from_photos(pairs: Pairs, embeddings: Embeddings, rows: dict[str, int]) -> Corpus:
    """Each caption told from its own photo's embedding: supervised with pairs, the upper bound of the rest. Captions of other photos are left out.
    Raises DataError where none is left."""
    kept = pairs.where([image in rows for image in pairs.image_ids])
    if not kept:
        raise DataError("no caption's image_id is among the photos it is to be told from. Join them by image_id.")
    return Corpus(kept, embeddings.select(torch.tensor([rows[image or ""] for image in kept.image_ids])))


def _fill(
    folder: Path,
    backbone: Backbone,
    what: dict[str, str],
    rows: int,
    encode: Callable[[int, int], Tensor],
    progress: Callable[[int, int], None] | None,
    dim: int,
    at_once: int = 1024,
) -> None:
    """Writes the shards that are not there yet; `encode(start, end)` gives rows of any length, `at_once` at most."""
    half = {"computed_in": "bfloat16"} if getattr(backbone, "dtype", "float32") == "bfloat16" else {}  # of which a fingerprint need not know
    manifest = {"format_version": 1, "backbone": backbone.fingerprint, **what, **half, "rows": rows, "dim": dim, "shard": SHARD}
    path = folder / "manifest.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        wanted = {"computed_in": None, **manifest}
        differing = [f"{key} is {found.get(key)!r}, wanted {value!r}" for key, value in wanted.items() if found.get(key) != value]
        if differing:
            raise MismatchError(f"{folder} holds the embeddings of something else ({'; '.join(differing)}). Name another folder, or delete this one.")
    write_json(path, manifest)
    for start in range(0, rows, SHARD):
        values_file, norms_file = folder / f"{start // SHARD:05d}.npy", folder / f"{start // SHARD:05d}.norms.npy"
        if not (values_file.is_file() and norms_file.is_file()):
            end = min(start + SHARD, rows)
            values = np.empty((end - start, dim), np.float32)
            for at in range(start, end, at_once):
                part = encode(at, min(at + at_once, end))
                values[at - start : at - start + len(part)] = part.float().cpu().numpy()
                if progress:
                    progress(min(at + at_once, end), rows)
            lengths = np.linalg.norm(values, axis=1)
            _write_array(norms_file, lengths)
            _write_array(values_file, values / np.maximum(lengths, 1e-12)[:, None])


def text_digest(texts: Sequence[str]) -> str:
    """Names texts, or ids, by what they are and their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _write_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
