"""A JSON object a line in a .jsonl file:

{"image_id": "7", "captions": ["a dog runs", "a dog on a beach"]}      or "caption" or "text", one string or several
{"image_id": "7", "source": "a dog runs", "target": "joy on four legs"}   what is embedded, and what is learnt; one string or several of each
{"image": "7.jpg", "caption": "a dog runs"}                            or "file_name": the photo in the folder of images
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capdec.errors import DataError, not_utf8
from capdec.photos import Row, with_photos
from capdec.protocols import Example

CAPTIONS = ("target", "captions", "caption", "text")


class JSONL:
    """`image_id` may be left out. Blank lines, null and blank captions are skipped. `images` is the folder of the photos, each called by
    the line's `image` or `file_name`, else by its image_id and a suffix (or, as Flickr8k has it, a secret and a suffix): without it the dataset is
    text alone. With `partial`, photos that are missing are left out, `left_out` of them. `dataset` and `split` say what it is of. Raises DataError,
    naming the line."""

    suffixes: tuple[str, ...] = (".jsonl", ".ndjson")

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        dataset: str | None = None,
        split: str | None = None,
        partial: bool = False,
    ):
        self.path = Path(path)
        self.name = dataset
        self.split = split
        self.left_out = 0
        self.examples: list[Example] | None = None
        if images is not None:
            self.examples, self.left_out = with_photos(list(self._rows()), images, partial)

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        return str(path).lower().endswith(cls.suffixes)

    def __iter__(self) -> Iterator[Example]:
        return (example for example, _ in self._rows()) if self.examples is None else iter(self.examples)

    def _rows(self) -> Iterator[Row]:
        found = False
        for where, line in self._lines():
            try:
                row = json.loads(line)  # bytes: UTF-8, with or without a byte order mark
                example = _example(row)
            except UnicodeDecodeError as error:
                raise not_utf8(where, error) from error
            except (ValueError, RecursionError) as error:
                raise DataError(f'{where} cannot be used: {error}. A line looks like {{"image_id": "7", "captions": ["a dog runs"]}}.') from error
            if example.captions:
                found = True
                named = next((str(row[key]) for key in ("image", "file_name") if row.get(key)), example.image_id)
                yield example, () if named is None else (named,)
        if not found:
            raise DataError(f'{self.path} holds no captions. A line looks like {{"image_id": "7", "captions": ["a dog runs"]}}.')

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        try:
            with self.path.open("rb") as lines:
                yield from ((f"{self.path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}. Name a file with a JSON object a line.") from error

    @classmethod
    def tiny(cls, folder: Path) -> "JSONL":
        path = folder / "captions.jsonl"
        rows = [
            {"image_id": "1", "captions": ["a dog runs on the beach", "a dog by the sea"]},
            {"image_id": "2", "source": "two children play", "target": "two happy children play"},
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return cls(path)


def _example(row: Any) -> Example:
    """Raises ValueError, saying what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    key = next((key for key in CAPTIONS if key in row), None)
    if key is None or ("source" in row) != ("target" in row):
        wanted = "target beside its source" if "source" in row else "source beside its target" if key else "captions, caption or text"
        raise ValueError(f"it has no {wanted}, but only {', '.join(row) or 'nothing'}")
    image_id = None if row.get("image_id") is None else str(row["image_id"])
    captions, sources = _texts(row, key), _texts(row, "source") if "source" in row else None
    if sources is None:
        return Example(tuple(filter(None, captions)), image_id)
    if len(sources) != len(captions):
        raise ValueError(f"it has {len(sources)} sources for {len(captions)} targets")
    pairs = [(source, target) for source, target in zip(sources, captions, strict=True) if source and target]
    return Example(tuple(target for _, target in pairs), image_id, sources=tuple(source for source, _ in pairs))


def _texts(row: dict[str, Any], key: str) -> list[str]:
    values = row[key] if isinstance(row[key], list) else [row[key]]
    if not all(value is None or isinstance(value, str) for value in values):
        raise ValueError(f"its {key} is neither a string nor a list of strings")
    return [" ".join((value or "").split()) for value in values]
