"""A corpus of malformed and hostile input, made here byte by byte: images, the files of bulk captioning, requests of the service."""

import io
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image


class Case(NamedTuple):
    """`good`: a reader has to accept it (True: nothing but odd), to refuse it (False), or may do either."""

    name: str
    content: bytes
    good: bool | None = False


def cases(
    opened: Mapping[str, bytes] | None = None, refused: Mapping[str, bytes] | None = None, either: Mapping[str, bytes] | None = None
) -> Iterator[Case]:
    for good, named in ((True, opened), (False, refused), (None, either)):
        for name, content in (named or {}).items():
            yield Case(name, content, good)


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
