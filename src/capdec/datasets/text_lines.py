"""A caption a line in a .txt file. Blank lines are skipped; there are no images."""

from collections.abc import Iterator
from pathlib import Path

from capdec.errors import DataError, not_utf8
from capdec.protocols import Example


class TextLines:
    """UTF-8, with or without a byte order mark. `dataset` and `split` say what it is of. Raises DataError where the file cannot be read or holds no
    captions, naming the line."""

    suffixes: tuple[str, ...] = (".txt",)

    def __init__(self, path: str | Path, dataset: str | None = None, split: str | None = None):
        self.path = Path(path)
        self.name = dataset
        self.split = split

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        return str(path).lower().endswith(cls.suffixes)

    def __iter__(self) -> Iterator[Example]:
        found = False
        for caption in self._lines():
            if caption:
                found = True
                yield Example((caption,))
        if not found:
            raise DataError(f"{self.path} holds no captions: every line is blank. It is a text file with a caption a line.")

    def _lines(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        yield " ".join(line.decode("utf-8-sig" if number == 1 else "utf-8").split())
                    except UnicodeDecodeError as error:
                        raise not_utf8(f"{self.path}:{number}", error) from error
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}. Name a text file with a caption a line.") from error

    @classmethod
    def tiny(cls, folder: Path) -> "TextLines":
        path = folder / "captions.txt"
        path.write_text("a dog runs on the beach\n\ntwo children play football\n", encoding="utf-8")
        return cls(path)
