"""Show what a captioner sees: caption the photos of a folder, or some real ones that an installed package brings along, and write them as a page.

What is not known: whether a caption is right. The page shows the photo beside it, so that whoever reads it can tell.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from capdec.captioner import Captioner
from capdec.errors import ImageError, MissingExtra, SettingError
from capdec.gallery import Entry, write_gallery
from capdec.images import LONGEST_SIDE, find_images, open_image
from capdec.protocols import Decoding

ABOUT = (
    "The embedded captioner is a small model, trained from scratch: its eye on 5,000 captioned photos of people and dogs and 28,000 uncaptioned "
    "ones, its captions on text alone. Of 50 captions read beside their photos about a third were right, a third half right and a third wrong, and "
    "most of what is wrong it marks as unsure, though not all. It knows people, dogs, grass, water, snow and sports, and little else; it makes "
    "up clothes and colours, takes women for men, and at times a person for an animal, which can insult. Do not use it for decisions about people."
)

PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""The ordinary photographs among the images inside scikit-image's wheel. Its others would be downloaded."""

BATCH = 32  # photos at a time


def demo(captioner: Captioner, folder: str | Path | None, output: str | Path, decoding: Decoding | None = None, about: str = ABOUT) -> list[Entry]:
    """Captions every photo below `folder` (None: scikit-image's own), writes the page `output` and returns its entries, without their pictures.

    `about` stands on the page; the given one speaks of the embedded captioner. A photo that cannot be opened is an entry with an error. Raises
    SettingError where `folder` is no folder or holds no photo, MissingExtra where scikit-image is wanted and not installed.
    """
    photos = _bundled() if folder is None else _below(Path(folder))
    title = "Captioned photos" if folder is None else f"Captioned photos: {Path(folder).resolve().name or folder}"
    entries: list[Entry] = []

    def passing() -> Iterator[Entry]:
        for entry in _captioned(captioner, photos, decoding or captioner.decoding):
            entries.append(replace(entry, image=None))
            yield entry

    source = "" if folder is not None else "\n\nThese photos come with the package scikit-image."
    write_gallery(output, title, passing(), about + source)
    return entries


def _captioned(captioner: Captioner, photos: dict[str, str], decoding: Decoding) -> Iterator[Entry]:
    """`photos` are name -> path. A few are opened at a time, and captioned as they would be in one call."""
    names, done = list(photos), 0
    for start in range(0, len(names), BATCH):
        opened = [_open(name, photos[name]) for name in names[start : start + BATCH]]
        images = [entry.image for entry in opened if entry.image is not None]
        captions = iter(captioner.caption(images, decoding, start=done))
        done += len(images)
        for entry in opened:
            yield entry if entry.image is None else replace(entry, caption=next(captions))


def _open(name: str, path: str) -> Entry:
    try:
        return Entry(name, image=open_image(path, at_most=LONGEST_SIDE))
    except ImageError as error:
        return Entry(name, error=str(error))


def _below(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise SettingError(f"{folder} is not a folder. Give one that holds photos, or none to caption the photos that scikit-image brings.")
    root = folder.absolute()  # so that a folder called "-" is no request to read from standard input
    found = {Path(path).relative_to(root).as_posix(): path for path in find_images([str(root)]) if path != str(root)}
    if not found:
        raise SettingError(f"no photo was found in {folder} or below it. A photo ends in .jpg, .png, .webp or the like.")
    return found


def _bundled() -> dict[str, str]:
    """Found without importing the package: skimage.data would name its download cache wherever pooch is installed."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise MissingExtra("scikit-image", "demo", "demo without a folder of photos")
    data = Path(package.origin).parent / "data"
    found = {name: str(data / name) for name in PHOTOS if (data / name).is_file()}
    if not found:
        raise SettingError(f"this scikit-image has none of the usual photos in {data}. Give a folder of photos.")
    return found
