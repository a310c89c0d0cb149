"""Tar shards as WebDataset and img2dataset write them: files of one key beside each other, 000017.jpg with 000017.json or 000017.txt.

A shard is read through once, for its texts; an image is read from its place in the tar when opened, so memory stays that of one image.
"""

import glob
import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from capdec.errors import DataError, ImageError
from capdec.images import open_image
from capdec.protocols import Example
from capdec.shards import IMAGES, samples


class WebDataset:
    """`path` is a shard, a pattern such as "shards/*.tar", or a list of these. The .json holds `captions` or `caption`, and `image_id` (default: the
    key); where it has no captions, the .txt is the caption; what has none at all is a photo alone. `dataset` and `split` say what it is of (flickr8k
    and val, say), so that a score can tell whether the backbone has seen its pairs. Raises DataError, naming the shard."""

    suffixes: tuple[str, ...] = (".tar",)

    def __init__(self, path: str | Path | Sequence[str | Path], dataset: str | None = None, split: str | None = None):
        self.name = dataset
        self.split = split
        patterns = [path] if isinstance(path, str | Path) else path
        found = {str(pattern): sorted(glob.glob(str(pattern), recursive=True)) for pattern in patterns}  # noqa: PTH207 (also of absolute patterns)
        self.shards = [shard for pattern, shards in found.items() for shard in shards or [pattern]]

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        return str(path).lower().endswith(cls.suffixes)

    def __iter__(self) -> Iterator[Example]:
        found = False
        for shard in self.shards:
            for key, sample in _samples(shard):
                example = _example(shard, key, sample)
                if example.captions or example.open_image is not None:
                    found = True
                    yield example
        if not found:
            named = ", ".join(self.shards[:3]) or "an empty list of shards"
            raise DataError(
                f"{named} holds no photos and no captions. A shard holds KEY.jpg and, beside it, KEY.json with caption or captions, or KEY.txt."
            )

    @classmethod
    def tiny(cls, folder: Path) -> "WebDataset":
        for number, colour in enumerate(("red", "blue")):
            Image.new("RGB", (8, 6), colour).save(folder / f"{number}.png")
            record = {"image_id": f"photo-{number}", "captions": [f"a {colour} wall", f"a wall in {colour}"]}
            (folder / f"{number}.json").write_text(json.dumps(record), encoding="utf-8")
        with tarfile.open(folder / "00000.tar", "w") as tar:
            for name in ("0.png", "0.json", "1.png", "1.json"):
                tar.add(folder / name, arcname=name)
        return cls(folder / "00000.tar")


def _samples(shard: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, {"image": offset and size, "json": bytes, "txt": bytes}) in the shard's order."""
    try:
        file = open(shard, "rb")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error.strerror}. Name .tar shards that are there.") from error
    with file:
        for key, members in samples(file, shard):
            photos = [place for ending, place in members.items() if ending in IMAGES]
            sample: dict[str, Any] = {"image": photos[-1]} if photos else {}
            for ending in {"json", "txt"} & members.keys():
                offset, size = members[ending]
                file.seek(offset)
                sample[ending] = file.read(size)
            yield key, sample


def _example(shard: str, key: str, sample: dict[str, Any]) -> Example:
    image_id = key
    captions: list[str] = []
    try:
        if "json" in sample:
            record = json.loads(sample["json"])
            image_id = key if record.get("image_id") is None else str(record["image_id"])
            said = record.get("captions") or record.get("caption") or []
            captions = [said] if isinstance(said, str) else said
        if "txt" in sample and not captions:
            captions = [sample["txt"].decode("utf-8-sig")]
        texts = tuple(filter(None, (" ".join(caption.split()) for caption in captions)))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        wanted = 'UTF-8, and a .json looks like {"image_id": "7", "captions": ["a dog runs"]}'
        raise DataError(f"{shard}: the text of {key!r} cannot be used ({error}). It is {wanted}.") from error
    return Example(texts, image_id, partial(_open, shard, key, *sample["image"]) if "image" in sample else None)


def _open(shard: str, key: str, offset: int, size: int) -> Image.Image:
    try:
        with open(shard, "rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise ImageError(f"{key!r} in {shard} cannot be read: {error.strerror}.") from error
    try:
        return open_image(content)
    except ImageError as error:
        raise ImageError(f"{key!r} in {shard}: {error}") from error
