"""NoCaps (Agrawal et al. 2019), its validation set: nocaps_val_4500_captions.json, as published (COCO's format, with a domain for each image)."""

import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from capdec.annotations import check_counts, read_coco
from capdec.errors import DataError, SettingError
from capdec.photos import with_photos
from capdec.protocols import Example

SOURCE = "NoCaps' file is https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json."
PHOTOS = (
    "NoCaps' photos are from Open Images V4, validation (https://nocaps.org/download): the file has each one's address under coco_url. "
    "Name the folder in which they are called by their file_name."
)
DOMAINS = ("in-domain", "near-domain", "out-domain")
"""How far a photo is from what COCO shows. They are scored apart, and the whole set besides: CIDEr's idf is that of the set scored."""


class NoCaps:
    """An example an image, with its domain as `group` and the file's own image id. `images` is the photos' folder. 4,500 photos of 10 captions each:
    a file with other counts is refused, and so are missing photos; how many are in which domain is not checked (its page says 648, 2,938 and 914).
    With `partial` both are allowed, and `left_out` says how many of the 4,500 are not there. There is no split to train on, and the test set's
    captions are kept private.

    Raises DataError and SettingError. It is asked for by name: a file given without one is read by `coco_json`.
    """

    suffixes: tuple[str, ...] = ()
    name: str | None = "nocaps"
    source = f"{SOURCE} {PHOTOS}"

    def __init__(self, path: str | Path, split: str = "val", images: str | Path | None = None, partial: bool = False):
        if split == "test":
            raise SettingError("the captions of NoCaps' test set are not public: its server scores predictions (https://nocaps.org). split is val.")
        if split != "val":
            raise SettingError(f"split of nocaps is val, not {split!r}: there is none to train on.")
        self.split: str | None = split
        found = read_coco(Path(path), SOURCE)
        domains = {example.group for example, _ in found.rows}
        if not domains <= {*DOMAINS}:
            raise DataError(f"{path} has images of domain {', '.join(map(repr, domains - {*DOMAINS}))}, not {', '.join(DOMAINS)}. {SOURCE}")
        if not partial:
            check_counts(Path(path), "split val", "photos", found.photos, 4_500, SOURCE)
            check_counts(Path(path), "split val", "captions", found.captions, 45_000, SOURCE)
            more = sum(len(example.captions) > 10 for example, _ in found.rows)
            check_counts(Path(path), "split val", "photos with more than 10 captions", more, 0, SOURCE)
        self.examples, _ = with_photos(found.rows, images, partial, PHOTOS)
        self.left_out = max(0, 4_500 - len(self.examples))

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        return False

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @classmethod
    def tiny(cls, folder: Path) -> "NoCaps":
        images: list[dict] = []
        annotations: list[dict] = []
        for number, (domain, colour) in enumerate(zip(DOMAINS, ("red", "blue", "green"), strict=True)):
            name = f"{number + 1:016x}"
            Image.new("RGB", (8, 6), colour).save(folder / f"{name}.jpg", quality=30)
            address = f"https://example.org/{name}.jpg"
            images.append({"id": number, "open_images_id": name, "file_name": f"{name}.jpg", "coco_url": address, "domain": domain})
            texts = [f"a {colour} wall", f"a wall in {colour}", *(f"a {colour} wall, seen {times} times" for times in range(2, 10))]
            annotations += [{"id": len(annotations) + place, "image_id": number, "caption": text} for place, text in enumerate(texts)]
        content = {"info": {"description": "walls in NoCaps' format"}, "licenses": [], "images": images, "annotations": annotations}
        path = folder / "nocaps_val_4500_captions.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return cls(path, images=folder, partial=True)
