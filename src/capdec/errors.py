"""Every error capdec raises on purpose.

CapdecError                 catch this one to catch them all
├── SettingError            a recipe, option or argument that cannot work (also a ValueError)
├── UnknownPart             no part of that name (also a SettingError); the message lists those there are
├── MissingExtra            an optional package is needed; the message names the extra to install
├── MismatchError           two things that must belong together do not: widths, fingerprints, corpora
├── DataError               a file of captions, embeddings or weights that cannot be used
├── ImageError              one photo that cannot be opened or is refused
│   └── AddressError        its address cannot be fetched, or may not be
├── OverloadedError         more waits than may; `retry_after` says in how many seconds there is likely to be room
├── DeadlineError           it was not done in the time that it had
└── ClosedError             no more is taken: it is shutting down

A message says what came, what would do, and what to try.
"""


class CapdecError(Exception):
    """Base of all errors raised on purpose."""


class SettingError(CapdecError, ValueError):
    """A recipe, option or argument that cannot work."""


class UnknownPart(SettingError):
    """No part of that name."""


class MissingExtra(CapdecError, ImportError):
    """An optional package is needed that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package {package!r}. Install it with: pip install 'capdec[{extra}]'")


class MismatchError(CapdecError, ValueError):
    """Two things that must belong together do not."""


class DataError(CapdecError, ValueError):
    """A file of captions, embeddings or weights that cannot be used."""


def not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    """What to do about it."""
    written_in = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "CP1252"  # Windows' two
    return DataError(f"{where} is not UTF-8 ({error.reason}). Convert the file: iconv -f {written_in} -t UTF-8.")


class ImageError(CapdecError):
    """One photo that cannot be opened or is refused."""


class AddressError(ImageError):
    """A photo's address that cannot be fetched, or may not be."""


class OverloadedError(CapdecError):
    """More waits than may; `retry_after` is a guess, in seconds, of when there is room."""

    def __init__(self, message: str, retry_after: float = 1.0):
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(CapdecError, TimeoutError):
    """It was not done in the time that it had."""


class ClosedError(CapdecError):
    """No more is taken: it is shutting down."""


def brief(error: Exception) -> str:
    """What an error of Python's or a library's says, at a length that fits into a message: some hold the whole input.

    >>> brief(KeyError("caption")), brief(ValueError("x" * 999))[-8:]
    ("KeyError: 'caption'", 'xxxx ...')
    """
    said = f"{type(error).__name__}: {error}"
    return said if len(said) <= 200 else f"{said[:200]} ..."


def one_line(what: object, most: int = 200) -> str:
    """On one line, and not too long.

    >>> one_line("a  name\\nof two lines", most=10)
    'a name of…'
    """
    text = " ".join(str(what).split())
    return text if len(text) <= most else text[: most - 1] + "…"
