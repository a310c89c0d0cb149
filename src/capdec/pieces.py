"""A large input cut into pieces, each of which one worker can read alone: a tar shard, some rows of Parquet or of a matrix.

Files are where fsspec finds them: on this machine, or behind s3://, gs://, hf:// ... A folder of photos is listed once into a file of Parquet, which
is cut like any other. What cannot be read is told in its place: a photo as an ImageError when opened, the rest of a source as one DataError.
"""

import bisect
import itertools
import math
import os
import posixpath
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from capdec.errors import CapdecError, DataError, ImageError, SettingError, brief
from capdec.files import as_text, exists, join, open_file, size_of, system_of, walk, writing
from capdec.images import LONGEST_SIDE, SUFFIXES, open_image
from capdec.shards import IMAGES, File, Matrix, batches, matrix, parquet, samples, vectors

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = 1000  # of an output file, where nothing else is asked for
ENDINGS = {".tar": "tar", ".parquet": "parquet", ".npy": "matrix", ".safetensors": "matrix", **dict.fromkeys(SUFFIXES, "photo")}
COLUMNS = (  # photos, then embeddings, for which no photo is needed, then where photos are
    *("image", *IMAGES, "bytes", "image_bytes"),
    *("embedding", "image_embedding", "img_emb", "clip_embedding", "vector"),
    *("path", "image_path", "file_name", "url"),
)
KEY_COLUMNS = ("key", "__key__", "id", "image_id", "image_path", "path", "file_name", "url")
LARGEST = 200_000_000  # bytes of one photo
PARTS = 32  # of a row group at most, for to find the last all before it are read; pandas makes one of a million rows

Photo = tuple[str, "Callable[[], Image]"]
"""A key, and what opens it or raises ImageError."""


@dataclass(frozen=True)
class Piece:
    """One output file's worth of work."""

    number: int
    source: str
    start: int
    """Rows; of a tar all."""
    stop: int
    rows: int
    """0 where only reading tells."""
    size: int
    """Bytes of the source when it was planned, to tell whether it changed."""


@dataclass(frozen=True)
class Reading:
    """How pieces are read: `kind` is "tar", "photos" (a column of Parquet: bytes or paths) or "vectors"."""

    kind: str
    column: str | None = None
    key: str | None = None
    root: str = ""
    """The folder that all sources are in: a row without a name has the rest of its source's path for one."""


def plan(
    inputs: list[str], listing: str, dim: int, column: str | None = None, key: str | None = None, rows: int | None = None
) -> tuple[Reading, list[Piece]]:
    """What the inputs hold, in pieces of about `rows`; photos of folders are listed in the file `listing`. `dim` is the width of embeddings. Raises
    DataError where there is nothing, or what cannot be read or is of several kinds; SettingError where columns are not to be found."""
    rows = rows or ROWS
    kind, sources = _sources(inputs, listing, rows)
    if kind == "photo":
        sources, key = [listing], "key"
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(_size_of, sources))
        if kind == "tar":
            return Reading("tar"), [Piece(n, source, 0, 0, 0, size) for n, (source, size) in enumerate(zip(sources, sizes, strict=True))]
        if kind == "matrix":
            reading = Reading("vectors", column, key)
            spans = pool.map(partial(_spans_of_matrix, column=column, dim=dim, rows=rows), sources)
        else:
            reading = _columns_of(sources, column, key)
            spans = pool.map(partial(_spans_of_parquet, reading=reading, rows=rows), sources)
        placed = [(source, size, *span) for source, size, found in zip(sources, sizes, spans, strict=True) for span in found]
    if kind == "matrix" and (beside := _metadata(sources[0])) is not None:
        with open_file(beside) as file:
            reading = Reading("vectors", column, _named(parquet(file, beside).schema_arrow.names, key, KEY_COLUMNS, beside))
    if not placed:
        raise DataError(f"{', '.join(inputs[:3])} has no rows.")
    reading = replace(reading, root=posixpath.dirname(os.path.commonprefix(sources)))  # noqa: RUF071 (commonpath takes no s3://)
    return reading, [Piece(n, source, start, stop, count, size) for n, (source, size, start, stop, count) in enumerate(placed)]


def _size_of(source: str) -> int:
    try:
        return size_of(source)
    except OSError:  # a link into nothing, say: its piece will tell
        return 0


def _sources(inputs: list[str], listing: str, rows: int) -> tuple[str, list[str]]:
    """What kind of files there are, and those files; photos go into `listing` instead."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, list[str]] = {"tar": [], "parquet": [], "matrix": []}
    own = {listing, join(posixpath.dirname(listing), "plan.parquet")}  # of a run that was killed while it planned, its folder below the input
    schema, listed = pa.schema([("key", pa.string()), ("path", pa.string())]), 0

    def photos() -> Iterator[tuple[str, str]]:
        for given in dict.fromkeys(inputs):
            for below, path in _files(given):
                kind = ENDINGS.get(posixpath.splitext(path.lower())[1])
                if kind == "photo":
                    yield (path if len(inputs) > 1 else below), path
                elif kind is not None and path not in own:
                    found[kind].append(as_text(path))

    with writing(listing) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        every = photos()
        while some := list(itertools.islice(every, rows)):
            keys, paths = ([as_text(text) for text in side] for side in zip(*some, strict=True))
            writer.write_table(pa.table({"key": keys, "path": paths}, schema))
            listed += len(some)
    found = {kind: list(dict.fromkeys(paths)) for kind, paths in found.items()}  # patterns may overlap
    if any("/img_emb/" in path for path in found["matrix"]):  # clip-retrieval's folder has text_emb and metadata beside it
        found["matrix"] = [path for path in found["matrix"] if "/img_emb/" in path]
    if found["tar"] or found["matrix"]:
        found["parquet"] = []  # what img2dataset and clip-retrieval write beside
    kinds = [kind for kind, paths in found.items() if paths] + (["photo"] if listed else [])
    if not kinds:
        raise DataError(
            f"nothing to caption is in {', '.join(inputs[:3])}. Name folders or files: photos, .tar, .parquet, or embeddings (.npy, .safetensors)."
        )
    if len(kinds) > 1:
        raise DataError(f"{', '.join(inputs[:3])} holds files of several kinds ({', '.join(kinds)}). Name one by a pattern, such as 'folder/*.tar'.")
    return kinds[0], found.get(kinds[0], [])


def _files(given: str) -> Iterator[tuple[str, str]]:
    """Files below a folder (hidden ones left out), what a pattern matches, or a file; in order, with their path in that folder, or below what the
    pattern begins with. Raises DataError for what is not there or may not be listed: photos left out in silence would be missed by nobody."""
    system, path = system_of(given)
    remote = "://" in given
    try:
        if any(sign in given for sign in "*?[") and not system.exists(path):
            matched = sorted(one for one in system.glob(path) if not system.isdir(one))
            fixed = posixpath.dirname(re.split(r"[*?[]", path)[0])
            yield from ((posixpath.relpath(one, fixed), system.unstrip_protocol(one) if remote else one) for one in matched)
        elif system.isdir(path):
            # local folders by their names alone: fsspec would ask and keep the state of every file
            above = given if remote else path
            for root, folders, names in walk(above) if remote else os.walk(above, onerror=_raise):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                below = root[len(above) :].lstrip("/")
                yield from ((join(below, name), join(root, name)) for name in sorted(names) if not name.startswith("."))
        elif system.exists(path):
            yield posixpath.basename(path), given
        else:
            raise DataError(f"{given} is not there. Check the path.")
    except CapdecError:
        raise
    except Exception as error:  # each file system has errors of its own, such as for credentials that are missing
        raise DataError(f"{given} cannot be listed: {brief(error)}. Check its permissions, or name what can be read.") from error


def _raise(error: OSError) -> None:
    raise error


def _columns_of(sources: list[str], column: str | None, key: str | None) -> Reading:
    """Those of the first file that can be read."""
    import pyarrow as pa

    problems: list[DataError | OSError] = []
    for source in sources:
        try:
            with open_file(source) as file:
                schema = parquet(file, source).schema_arrow
            break
        except (DataError, OSError) as error:
            problems.append(error)
    else:
        raise DataError(f"none of {len(sources)} files can be read. The first: {problems[0]}") from problems[0]
    numbers = [
        field.name
        for field in schema
        if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type) or pa.types.is_large_list(field.type)
    ]
    column = _named(schema.names, column, (*COLUMNS, *numbers), source)
    if column is None:
        raise SettingError(f"{source} has no column that is known to hold photos or embeddings: {', '.join(schema.names)}. Say which with --column.")
    key = _named(schema.names, key, KEY_COLUMNS, source)
    return Reading("vectors" if column in numbers else "photos", column, key)


def _named(names: list[str], asked: str | None, usual: Iterable[str], source: str) -> str | None:
    if asked is not None and asked not in names:
        raise SettingError(f"{source} has no column {asked!r}. It has: {', '.join(names)}.")
    return asked or next((name for name in usual if name in names), None)


def _spans_of_matrix(source: str, column: str | None, dim: int, rows: int) -> list[tuple[int, int, int]]:
    """(start, stop, rows) of each piece; of a file that is no matrix one piece, which will say so."""
    try:
        with open_file(source) as file:
            found = _fitting(file, source, column, dim)
    except (DataError, OSError):
        return [(0, 0, 0)]
    return [(start, min(start + rows, found.rows), min(rows, found.rows - start)) for start in range(0, found.rows, rows)]


def _spans_of_parquet(source: str, reading: Reading, rows: int) -> list[tuple[int, int, int]]:
    try:
        with open_file(source) as file:
            table = parquet(file, source)
            sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    except (DataError, OSError):
        return [(0, 0, 0)]
    spans: list[tuple[int, int, int]] = []
    start = stop = 0
    for group, size in enumerate(sizes, start=1):
        stop += size
        if stop - start >= rows or group == len(sizes):
            step = math.ceil((stop - start) / max(1, min(PARTS, (stop - start) // rows)))
            spans += [(first, min(first + step, stop), min(step, stop - first)) for first in range(start, stop, step or 1)]
            start = stop
    return spans


def _fitting(file: File, source: str, column: str | None, dim: int) -> Matrix:
    found = matrix(file, source, column)
    if found.dim != dim:
        raise DataError(f"{source} holds embeddings of width {found.dim}; this captioner's backbone gives {dim}. Were they made by another?")
    return found


def read_photos(piece: Piece, reading: Reading, batch: int) -> Iterator[Photo]:
    """Raises DataError or OSError where the source cannot be read on."""
    with _as_planned(piece) as file:
        if reading.kind == "tar":
            for key, members in samples(file, piece.source):
                place = next((place for ending, place in members.items() if ending in IMAGES), None)
                yield key, _opener(ImageError(f"no photo is with {', '.join(members)[:80]}") if place is None else _content(file, *place))
            return
        folder = posixpath.dirname(piece.source)
        for keys, column in _column(file, piece, reading, batch):
            for key, value in zip(keys, column.to_pylist(), strict=True):
                inner = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value  # as Hugging Face's datasets have it
                yield key, _opener(join(folder, inner) if isinstance(inner, str) else inner)


def read_vectors(piece: Piece, reading: Reading, dim: int, batch: int) -> Iterator[tuple[list[str], list[np.ndarray | None]]]:
    """Keys and rows, `batch` at a time; None for a row of Parquet that is not `dim` numbers. Raises DataError or OSError where the source cannot be
    read on."""
    with _as_planned(piece) as file:
        if piece.source.lower().endswith(".parquet"):
            yield from ((keys, vectors(column, dim)) for keys, column in _column(file, piece, reading, batch))
            return
        found, names = _fitting(file, piece.source, reading.column, dim), _keys_of_matrix(piece, reading)
        _refuse_unplanned(piece)
        with closing(names):
            for start in range(piece.start, piece.stop, batch):
                stop = min(start + batch, piece.stop)
                yield list(itertools.islice(names, stop - start)), list(found.read(file, start, stop, piece.source))


def _as_planned(piece: Piece) -> File:
    """Its source, opened. Raises DataError where it is another than it was."""
    if piece.size and (now := size_of(piece.source)) != piece.size:
        raise DataError(f"{piece.source} had {piece.size:,} bytes when the run began, and has {now:,} now. Start anew, in another folder.")
    return open_file(piece.source)


def _refuse_unplanned(piece: Piece) -> None:
    if not piece.stop:  # else it would have no rows and no error
        raise DataError(f"{piece.source} could not be read when the run began, and can be now. Caption it in a run of its own, in another folder.")


def _column(file: File, piece: Piece, reading: Reading, batch: int) -> Iterator[tuple[list[str], Any]]:
    """Keys and values of the rows of a piece of Parquet."""
    assert reading.column is not None
    table = parquet(file, piece.source)
    _refuse_unplanned(piece)
    names = table.schema_arrow.names
    for name in {reading.column, reading.key} - {None}:
        if names.count(name) != 1:
            raise DataError(f"{piece.source} has {names.count(name)} columns {name!r}, and the first file has one. Name files of one kind.")
    sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    ends = list(itertools.accumulate(sizes))
    if sum(sizes) < piece.stop:
        raise DataError(f"{piece.source} has {sum(sizes):,} rows, fewer than when the run began. Start anew, in another folder.")
    groups = range(bisect.bisect_right(ends, piece.start), bisect.bisect_left(ends, piece.stop) + 1)
    at = ends[groups[0]] - sizes[groups[0]]
    for part in batches(table, piece.source, [reading.column, *([reading.key] if reading.key else [])], groups, batch):
        wanted = part[max(piece.start - at, 0) : max(piece.stop - at, 0)]
        if len(wanted):
            named = wanted.column(reading.key).to_pylist() if reading.key else [None] * len(wanted)
            first = max(piece.start, at)
            yield [_key(name, piece, reading, row) for row, name in enumerate(named, start=first)], wanted.column(reading.column)
        at += len(part)
        if at >= piece.stop:
            return


def _key(name: object, piece: Piece, reading: Reading, row: int) -> str:
    return f"{piece.source.removeprefix(reading.root).lstrip('/')}:{row}" if name is None else str(name)


def _keys_of_matrix(piece: Piece, reading: Reading) -> Generator[str, None, None]:
    path = _metadata(piece.source) if reading.key else None
    if path is None or reading.key is None:
        yield from (_key(None, piece, reading, row) for row in range(piece.start, piece.stop))
        return
    with open_file(path) as file:
        table, at = parquet(file, path), 0
        if table.metadata.num_rows < piece.stop:
            raise DataError(f"{path} names {table.metadata.num_rows:,} rows, fewer than {piece.source} has. Were they made together?")
        for group in range(table.num_row_groups):
            after = at + table.metadata.row_group(group).num_rows
            if after > piece.start and at < piece.stop:
                named = (name for part in batches(table, path, [reading.key], range(group, group + 1), 4096) for name in part.column(0).to_pylist())
                yield from (_key(name, piece, reading, row) for row, name in enumerate(named, start=at) if piece.start <= row < piece.stop)
            at = after


def _metadata(source: str) -> str | None:
    """What clip-retrieval writes beside a matrix: metadata/metadata_7.parquet for img_emb/img_emb_7.npy."""
    folder, name = posixpath.split(source)
    number = posixpath.splitext(name)[0].rpartition("_")[2]
    path = join(posixpath.dirname(folder), f"metadata/metadata_{number}.parquet")
    return path if number.isdigit() and exists(path) else None


def _opener(source: object) -> "Callable[[], Image]":
    if isinstance(source, str) and "://" in source and not source.lower().startswith(("http://", "https://")):
        return partial(_fetched, source)
    if isinstance(source, str | bytes):
        return partial(open_image, source, at_most=LONGEST_SIDE)
    missing = ImageError(f"there is {'nothing' if source is None else type(source).__name__} where a photo should be.")
    return partial(_refused, source if isinstance(source, ImageError) else missing)


def _fetched(path: str) -> "Image":
    try:
        with open_file(path) as file:
            content = _content(file, 0, None)
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"{path} cannot be read: {brief(error)}") from error
    return _opener(content)()


def _refused(error: ImageError) -> "Image":
    raise error


def _content(file: File, offset: int, size: int | None) -> bytes | ImageError:
    if size is None or size <= LARGEST:
        file.seek(offset)
        content = file.read(LARGEST + 1 if size is None else size)
        if len(content) <= LARGEST:
            return content
    return ImageError(f"this photo has {'more than ' if size is None else ''}{size or LARGEST:,} bytes, and {LARGEST:,} are allowed.")
