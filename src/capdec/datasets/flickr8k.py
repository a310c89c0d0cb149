"""Flickr8k (Hodosh et al. 2013) in Karpathy and Fei-Fei's 2015 split: dataset_flickr8k.json, as published."""

from collections.abc import Iterator
from pathlib import Path

from capdec.annotations import KARPATHY, Published, read_published, write_karpathy_sample
from capdec.protocols import Example

PUBLISHED = Published(
    "flickr8k",
    {"train": (6_000, 30_000), "val": (1_000, 5_000), "test": (1_000, 5_000)},
    "Flickr8k's photos are given on request: http://hockenmaier.cs.illinois.edu/8k-pictures.html (form: https://forms.illinois.edu/sec/1713398).",
)


class Flickr8k:
    """`path` is dataset_flickr8k.json, `images` the photos' folder (Flicker8k_Dataset, as unpacked). `split` is test (1,000 photos), val (1,000)
    or train (6,000), five captions a photo. An image_id is Flickr's number, on which Flickr8k, Flickr30k and FlickrStyle10K join.

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
    def tiny(cls, folder: Path) -> "Flickr8k":
        names = {split: ("", f"{100 + number}_{number:010x}.jpg") for number, split in enumerate(PUBLISHED.counts, 1)}
        return cls(write_karpathy_sample(folder, "flickr8k", names), images=folder, partial=True)
