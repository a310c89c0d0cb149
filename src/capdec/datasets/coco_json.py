"""COCO's caption annotations (captions_train2014.json and others in its format):

{"images": [{"id": 9, "file_name": "9.jpg"}], "annotations": [{"image_id": 9, "caption": "a dog runs"}]}
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from capdec.errors import DataError
from capdec.images import open_image
from capdec.protocols import Example


class CocoJSON:
    """An example an image, in the file's order; images without captions are left out. `images` is the folder of the photos: without it the dataset is
    text alone. `name` is "coco" where the file's own description says so. Raises DataError."""

    suffixes: tuple[str, ...] = (".json",)
    name: str | None = None
    split: str | None = None

    def __init__(self, path: str | Path, images: str | Path | None = None):
        self.path = Path(path)
        self.images = None if images is None else Path(images)
        try:
            content = json.loads(self.path.read_bytes())
            self.files: dict[str, str | None] = {str(image["id"]): image.get("file_name") for image in content["images"]}
            self.captions: dict[str, list[str]] = {image_id: [] for image_id in self.files}
            for annotation in content["annotations"]:
                caption = " ".join(annotation["caption"].split())
                self.captions[str(annotation["image_id"])] += [caption] if caption else []
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{self.path} cannot be read as JSON: {error}.") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path} holds no COCO captions ({error!r}). It needs images with an id, and annotations with image_id and caption."
            ) from error
        if not any(self.captions.values()):
            raise DataError(f"{self.path} holds no captions: its annotations are empty.")
        info = content.get("info")
        self.name = "coco" if "COCO" in str(info.get("description") if isinstance(info, dict) else "") else None

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        """By suffix and keys: `annotations` comes after the images, so the whole file is searched."""
        path = Path(path)
        return path.suffix.lower() in cls.suffixes and path.is_file() and re.search(rb'"annotations"\s*:\s*\[', path.read_bytes()) is not None

    def __iter__(self) -> Iterator[Example]:
        for image_id, captions in self.captions.items():
            if captions:
                file_name = self.files[image_id]
                opener = None if self.images is None or file_name is None else partial(open_image, self.images / file_name)
                yield Example(tuple(captions), image_id, opener)

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
