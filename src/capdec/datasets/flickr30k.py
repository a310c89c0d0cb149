"""Flickr30k (Young et al. 2014) in Karpathy and Fei-Fei's 2015 split: dataset_flickr30k.json, as published."""

from collections.abc import Iterator
from pathlib import Path

from capdec.annotations import KARPATHY, Published, read_published, write_karpathy_sample
from capdec.protocols import Example

PUBLISHED = Published(
    "flickr30k",
    {"train": (29_000, 145_000), "val": (1_014, 5_070), "test": (1_000, 5_000)},
    "Flickr30k's photos are given on request: https://shannon.cs.illinois.edu/DenotationGraph/ (form: https://forms.illinois.edu/sec/229675).",
)


class Flickr30k:
    """`path` is dataset_flickr30k.json, `images` the photos' folder (flickr30k-images, as unpacked). `split` is test (1,000 photos), val (1,014)
    or train (29,000), five captions a photo. An image_id is Flickr's number, on which Flickr8k, Flickr30k and FlickrStyle10K join.

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
    def tiny(cls, folder: Path) -> "Flickr30k":
        names = {split: ("", f"{300 + number}.jpg") for number, split in enumerate(PUBLISHED.counts, 1)}
        return cls(write_karpathy_sample(folder, "flickr30k", names), images=folder, partial=True)
