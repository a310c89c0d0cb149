"""Captions in the format of COCO's annotations (captions_train2014.json and others; see annotations.py)."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from capdec.annotations import read_coco
from capdec.photos import with_photos
from capdec.protocols import Example


class CocoJSON:
    """An example an image, in the file's order; images without captions are left out. `images` is the folder of the photos: without it the dataset is
    text alone. With `partial`, photos that are missing are left out, `left_out` of them. `dataset` and `split` say what it is of (default: "coco"
    where the file's own description says so, and not known). Raises DataError."""

    suffixes: tuple[str, ...] = (".json",)

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        dataset: str | None = None,
        split: str | None = None,
        partial: bool = False,
    ):
        self.path = Path(path)
        found = read_coco(self.path)
        self.name: str | None = dataset or found.dataset
        self.split = split
        self.examples, self.left_out = with_photos(found.rows, images, partial)

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        """By suffix and keys: `annotations` comes after the images, so the whole file is searched."""
        path = Path(path)
        return path.suffix.lower() in cls.suffixes and path.is_file() and re.search(rb'"annotations"\s*:\s*\[', path.read_bytes()) is not None

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @classmethod
    def tiny(cls, folder: Path) -> "CocoJSON":
        for number, colour in ((1, "red"), (2, "blue")):
            Image.new("RGB", (8, 6), colour).save(folder / f"{number}.png")
        annotations = [(1, "a red wall"), (2, "a blue wall"), (1, "a wall in red")]
        content = {
            "info": {"description": "COCO 2014 Dataset"},
            "images": [{"id": number, "file_name": f"{number}.png"} for number in (1, 2)],
            "annotations": [{"id": place, "image_id": number, "caption": caption} for place, (number, caption) in enumerate(annotations)],
        }
        (folder / "captions.json").write_text(json.dumps(content), encoding="utf-8")
        return cls(folder / "captions.json", images=folder)
