"""The split files of Karpathy and Fei-Fei 2015 (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json):

{"dataset": "coco", "images": [{"split": "train", "filepath": "val2014", "filename": "9.jpg", "cocoid": 9, "sentences": [{"raw": "A dog runs."}]}]}
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from capdec.errors import DataError, SettingError
from capdec.images import open_image
from capdec.protocols import Example

SPLITS = ("train", "restval", "val", "test")


class Karpathy:
    """An example an image. As everywhere in the field, split "train" includes "restval" (30,504 images of COCO's validation set that are in neither
    val nor test): `splits` says which were read. `images` is the folder of the photos, which are looked for under filepath/filename and filename:
    without it the dataset is text alone. Raises DataError."""

    suffixes: tuple[str, ...] = (".json",)
    name: str | None = None

    def __init__(self, path: str | Path, split: str = "train", images: str | Path | None = None):
        if split not in SPLITS:
            raise SettingError(f"split is one of {', '.join(SPLITS)} (train includes restval), not {split!r}.")
        self.split: str | None = split
        self.path = Path(path)
        self.images = None if images is None else Path(images)
        self.splits: tuple[str, ...] = ("train", "restval") if split == "train" else (split,)
        try:
            content = json.loads(self.path.read_bytes())
            self.name = content.get("dataset")
            self.rows = [
                (
                    str(image["cocoid"] if "cocoid" in image else image["imgid"]),
                    tuple(filter(None, (" ".join(sentence["raw"].split()) for sentence in image["sentences"]))),
                    (image.get("filepath", ""), image["filename"]),
                )
                for image in content["images"]
                if image["split"] in self.splits
            ]
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{self.path} cannot be read as JSON: {error}.") from error
        except (KeyError, TypeError, AttributeError) as error:
            wanted = "images with split, sentences, filename, and cocoid or imgid"
            raise DataError(f"{self.path} is not one of Karpathy's split files ({error!r}). It needs {wanted}.") from error
        if not any(captions for _, captions, _ in self.rows):
            there = ", ".join(sorted({image["split"] for image in content["images"]})) or "none"
            raise DataError(f"{self.path} holds no captions of split {' or '.join(self.splits)}. Its splits: {there}.")

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        """By suffix and keys."""
        path = Path(path)
        return path.suffix.lower() in cls.suffixes and path.is_file() and re.search(rb'"sentences"\s*:\s*\[', path.read_bytes()) is not None

    def __iter__(self) -> Iterator[Example]:
        for image_id, captions, file in self.rows:
            if captions:
                yield Example(captions, image_id, None if self.images is None else partial(_open, self.images, *file))

    @classmethod
    def tiny(cls, folder: Path) -> "Karpathy":
        (folder / "photos").mkdir(exist_ok=True)
        images = []
        for number, (split, colour) in enumerate([("train", "red"), ("restval", "blue"), ("val", "green"), ("test", "white")]):
            Image.new("RGB", (8, 6), colour).save(folder / "photos" / f"{number}.png")
            sentences = [{"raw": f"A {colour} wall.", "tokens": ["a", colour, "wall"]}, {"raw": f"A wall in {colour}."}]
            images.append({"split": split, "filepath": "photos", "filename": f"{number}.png", "imgid": number, "sentences": sentences})
        (folder / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}), encoding="utf-8")
        return cls(folder / "dataset.json", images=folder)


def _open(folder: Path, filepath: str, filename: str) -> Image.Image:
    nested = folder / filepath / filename
    return open_image(nested if nested.is_file() else folder / filename)
