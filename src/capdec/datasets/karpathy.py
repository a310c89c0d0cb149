"""Any file in the format of Karpathy and Fei-Fei's 2015 splits (see annotations.py). The parts coco, flickr30k and flickr8k check counts besides."""

import re
from collections.abc import Iterator
from pathlib import Path

from capdec.annotations import SPLITS, read_karpathy, write_karpathy_sample
from capdec.errors import SettingError
from capdec.photos import with_photos
from capdec.protocols import Example


class Karpathy:
    """An example an image. As everywhere in the field, split "train" includes "restval" (30,504 images of COCO's validation set that are in neither
    val nor test), and "train_only" does not: `splits` says which were read. `images` is the folder of the photos, which are looked for under
    filepath/filename and filename: without it the dataset is text alone. With `partial`, photos that are missing are left out, `left_out` of them.
    `dataset` says which dataset it is (default: what the file says). Raises DataError and SettingError."""

    suffixes: tuple[str, ...] = (".json",)

    def __init__(self, path: str | Path, split: str = "train", images: str | Path | None = None, dataset: str | None = None, partial: bool = False):
        if split not in SPLITS:
            raise SettingError(f"split is one of {', '.join(SPLITS)} (train includes restval, train_only does not), not {split!r}.")
        self.path = Path(path)
        self.split: str | None = split
        self.splits = SPLITS[split]
        found = read_karpathy(self.path, self.splits)
        self.name: str | None = dataset or found.dataset
        self.examples, self.left_out = with_photos(found.rows, images, partial)

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        """By suffix and keys."""
        path = Path(path)
        return path.suffix.lower() in cls.suffixes and path.is_file() and re.search(rb'"sentences"\s*:\s*\[', path.read_bytes()) is not None

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @classmethod
    def tiny(cls, folder: Path) -> "Karpathy":
        names = {split: ("photos", f"{number}.png") for number, split in enumerate(("train", "restval", "val", "test"))}
        return cls(write_karpathy_sample(folder, "walls", names), images=folder)
