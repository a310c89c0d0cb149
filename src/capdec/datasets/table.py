"""A .csv, .tsv or .parquet file with a column of captions. A row's captions may be a list: a list column of Parquet, or JSON in a cell."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capdec.errors import DataError, MissingExtra, SettingError, not_utf8
from capdec.protocols import Example

CAPTIONS = ("caption", "captions", "text", "sentence", "title")
IMAGE_IDS = ("image_id", "image", "file_name", "id")


class Table:
    """`column` names the captions (default: the first there is of caption, captions, text, sentence, title), `delimiter` what parts the cells of a
    text file (default: a tab in a .tsv; elsewhere a comma, or a semicolon where the header has that alone). Columns `source` and `target`, where
    there are both, are what is embedded and what is learnt. The image's id is in image_id, image, file_name or id, where there is one. Rows without
    a caption are skipped. `dataset` and `split` say what it is of.

    Raises DataError, naming the line, and MissingExtra for Parquet without pyarrow.
    """

    suffixes: tuple[str, ...] = (".csv", ".tsv", ".parquet")

    def __init__(
        self,
        path: str | Path,
        column: str | None = None,
        delimiter: str | None = None,
        dataset: str | None = None,
        split: str | None = None,
    ):
        if delimiter is not None and len(delimiter) != 1:
            raise SettingError(f"delimiter is one character, such as ';' or '|', not {delimiter!r}.")
        self.path = Path(path)
        self.column = column
        self.name = dataset
        self.split = split
        self.delimiter = delimiter or ("\t" if self.path.suffix.lower() == ".tsv" else None)

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        return str(path).lower().endswith(cls.suffixes)

    def __iter__(self) -> Iterator[Example]:
        found = False
        for where, row in self._parquet() if self.path.suffix.lower() == ".parquet" else self._delimited():
            example = _example(where, row)
            if example.captions:
                found = True
                yield example
        if not found:
            raise DataError(f"{self.path} holds no captions: it has no rows, or they are blank.")

    def _roles(self, header: list[str]) -> dict[str, int]:
        """What a row is read for -> the place of that column."""
        places = {name.strip().lower(): place for place, name in reversed(list(enumerate(header)))}
        named = next((name for name in IMAGE_IDS if name in places), None)
        image_ids = {"image_id": places[named]} if named else {}
        if self.column is None and "source" in places and "target" in places:
            return image_ids | {"source": places["source"], "caption": places["target"]}
        wanted = CAPTIONS if self.column is None else (self.column.strip().lower(),)
        place = next((places[name] for name in wanted if name in places), None)
        if place is None:
            hint = "name another with column=" if self.path.suffix.lower() == ".parquet" else "name another with column=, or set delimiter="
            raise DataError(f"{self.path} has no column {' or '.join(wanted)}; {hint}. Its columns: {', '.join(map(repr, header))}.")
        return image_ids | {"caption": place}

    def _delimited(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            with self.path.open("rb") as file:
                lines = self._decoded(file)
                first = next(lines, "")
                delimiter = self.delimiter or (";" if ";" in first and "," not in first else ",")
                rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
                header = next(rows, [])
                roles = self._roles(header)
                for cells in rows:
                    where = f"{self.path}:{rows.line_num}"
                    if cells and len(cells) != len(header):
                        hint = "Put quotes around a caption that holds the delimiter"
                        raise DataError(f"{where} has {len(cells)} cells where the header has {len(header)}. {hint}, or set delimiter=.")
                    if cells:
                        yield where, {role: _listed(cells[place]) for role, place in roles.items()}
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}. Name a .csv, .tsv or .parquet file.") from error
        except csv.Error as error:
            raise DataError(f"{self.path}:{rows.line_num} is not a row of a table: {error}.") from error

    def _decoded(self, lines: Any) -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(f"{self.path}:{number}", error) from error

    def _parquet(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            import pyarrow
            from pyarrow import parquet, types
        except ImportError as error:
            raise MissingExtra("pyarrow", "data", f"reading {self.path}") from error
        try:
            with parquet.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                columns = {role: schema.names[place] for role, place in self._roles(schema.names).items()}
                if "image_id" in columns and types.is_nested(schema.field(columns["image_id"]).type):
                    del columns["image_id"]  # the image itself
                number = 0
                for batch in file.iter_batches(batch_size=4096, columns=sorted(set(columns.values()))):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{self.path}, row {number},", {role: row[column] for role, column in columns.items()}
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{self.path} cannot be read as Parquet: {error}.") from error

    @classmethod
    def tiny(cls, folder: Path) -> "Table":
        path = folder / "captions.csv"
        path.write_text('image_id,caption\n1,a dog runs on the beach\n2,"two children, playing"\n', encoding="utf-8")
        return cls(path)


def _listed(cell: str) -> Any:
    """A cell's list of strings, where it is JSON for one."""
    if cell.startswith('["'):
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell


def _example(where: str, row: dict[str, Any]) -> Example:
    image_id = None if row.get("image_id") in (None, "") else str(row["image_id"])
    captions, sources = _texts(where, row["caption"]), _texts(where, row["source"]) if "source" in row else None
    if sources is None:
        return Example(tuple(filter(None, captions)), image_id)
    if len(sources) != len(captions):
        raise DataError(f"{where} has {len(sources)} sources for {len(captions)} targets. Each target needs its own.")
    pairs = [(source, target) for source, target in zip(sources, captions, strict=True) if source and target]
    return Example(tuple(target for _, target in pairs), image_id, sources=tuple(source for source, _ in pairs))


def _texts(where: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(item is None or isinstance(item, str) for item in values):
        raise DataError(f"{where} has a caption that is no text: {str(value)[:80]!r}. Name the column of captions with column=.")
    return [" ".join((item or "").split()) for item in values]
