"""The photos of a dataset, all looked for before anything else is done: a folder that lacks some is known at once, and none is dropped in silence.

Each folder is listed once, and no photo is opened or asked for on its own.
"""

import functools
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from capdec.errors import DataError
from capdec.images import SUFFIXES, open_image
from capdec.protocols import Example

Row = tuple[Example, tuple[str, ...]]
"""An example that has no photo yet, and the names under which its photo is looked for."""


def with_photos(rows: Sequence[Row], folder: str | Path | None, partial: bool = False, source: str = "") -> tuple[list[Example], int]:
    """The examples with their photos, and how many were left out for want of one: none, unless `partial`. Without a folder they stay text alone.

    The first name that is in `folder` counts. A name may have folders of its own (val2014/9.jpg), and it may lack its suffix: "7" is 7.jpg or 7.PNG,
    and also Flickr8k's 7_5e0e391a80.jpg. `source` says where the photos come from.

    Raises DataError where photos are missing, and with `partial` where all are.
    """
    if folder is None:
        return [example for example, _ in rows], 0
    listings: dict[str, dict[str, str]] = {}
    examples: list[Example] = []
    missing: list[str] = []
    for example, names in rows:
        path = next(filter(None, (_find(str(folder), name, listings) for name in names)), None)
        if path is None:
            missing.append(names[0] if names else f"a photo without a name (image_id {example.image_id})")
        else:
            examples.append(replace(example, open_image=functools.partial(open_image, path)))
    if missing and not (partial and examples):
        where = " and ".join([*listings][:3]) or str(folder)
        nowhere = "" if os.path.isdir(folder) else f" {folder} is no folder."  # noqa: PTH112
        hint = "" if partial or not examples else " As a part (--partial, in a recipe partial = true) the others are read, and so is the score."
        raise DataError(
            f"{len(missing):,} of {len(rows):,} photos are missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else '.'} "
            f"Looked for in {where}.{nowhere} {source or 'Name their folder (images).'}{hint}"
        )
    return examples, len(missing)


def flickr_number(file_name: str) -> str:
    """Flickr's number of a photo, the same in Flickr8k, Flickr30k and FlickrStyle10K, so that their captions join on it.

    >>> flickr_number("2448270671_5e0e391a80.jpg"), flickr_number("2448270671.jpg")
    ('2448270671', '2448270671')
    """
    return file_name.partition(".")[0].partition("_")[0]


def _find(folder: str, name: str, listings: dict[str, dict[str, str]]) -> str | None:
    parent, base = os.path.split(os.path.join(folder, name))  # noqa: PTH118
    if parent not in listings:
        listings[parent] = _listing(parent)
    found = listings[parent].get(base)
    return None if found is None else os.path.join(parent, found)  # noqa: PTH118


def _listing(folder: str) -> dict[str, str]:
    """What a file may be asked for by -> its name: that, that without the suffix, and the Flickr number of a photo of Flickr8k's."""
    with suppress(OSError):
        names = sorted(os.listdir(folder))  # noqa: PTH208
        photos = [name for name in names if name.lower().endswith(SUFFIXES)]
        numbers = {flickr_number(name): name for name in reversed(photos) if re.match(r"\d+_[0-9a-f]{10}\.", name)}
        return numbers | {name.rpartition(".")[0]: name for name in reversed(photos)} | {name: name for name in names}
    return {}
