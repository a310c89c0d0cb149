"""COCO Captions (Chen et al. 2015) in Karpathy and Fei-Fei's 2015 split: dataset_coco.json, as published."""

from collections.abc import Iterator
from pathlib import Path

from capdec.annotations import KARPATHY, Published, read_published, write_karpathy_sample
from capdec.protocols import Example

PUBLISHED = Published(
    "coco",
    {"train": (82_783, 414_113), "restval": (30_504, 152_634), "val": (5_000, 25_010), "test": (5_000, 25_010)},
    "COCO's photos are in http://images.cocodataset.org/zips/val2014.zip and http://images.cocodataset.org/zips/train2014.zip: name the folder that "
    "holds val2014 and train2014 (all of test and val are in val2014).",
)


class Coco:
    """`path` is dataset_coco.json, `images` the folder with val2014 and train2014. `split` is test (5,000 photos, 25,010 captions), val (the same
    numbers), train (113,287 photos: 82,783 and the 30,504 of restval, as in most papers; `splits` says so), train_only (without restval), or restval.

    A file with other counts is refused, and so are missing photos. With `partial` both are allowed, and `left_out` says how many photos of the split
    are not there. Raises DataError and SettingError. It is asked for by name: a file given without one is read by `karpathy`.
    """

    suffixes: tuple[str, ...] = ()
    name: str | None = PUBLISHED.dataset
    source = f"{KARPATHY} {PUBLISHED.photos}"

    def __init__(self, path: str | Path, split: str = "test", images: str | Path | None = None, partial: bool = False):
        self.split: str | None = split
        self.splits, self.examples, self.left_out = read_published(Path(path), split, images, partial, PUBLISHED)

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        return False

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @classmethod
    def tiny(cls, folder: Path) -> "Coco":
        places = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}
        names = {split: (place, f"COCO_{place}_{number:012d}.jpg") for number, (split, place) in enumerate(places.items(), 11)}
        return cls(write_karpathy_sample(folder, "coco", names), images=folder, partial=True)
