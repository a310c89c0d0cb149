"""Files wherever fsspec finds them: local ones, and those of s3://, gs://, hf:// ... Written whole or not at all."""

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capdec.checkpoint import replacing
from capdec.errors import MissingExtra, SettingError, brief


def system_of(path: str) -> tuple[Any, str]:
    """The file system that a path is of, and the path there. Raises SettingError for one that is not to be had."""
    try:
        import fsspec.core
    except ImportError as error:
        raise MissingExtra("fsspec", "bulk", f"reading {path}") from error
    if "://" not in path:  # in a file's name "::" is no chain of file systems
        local = fsspec.filesystem("file")
        return local, str(local._strip_protocol(path))
    try:
        system, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = error.name or str(error).partition("nstall ")[2].partition(" ")[0]
        raise SettingError(f"{path} is read by the package {package!r}, here and at workers. Install it with: pip install {package}") from error
    except ValueError as error:
        raise SettingError(f"{path} is on no file system that is known: {brief(error)}") from error
    return system, str(inner)


def as_text(name: str) -> str:
    r"""A file's name need not be text: bytes that are none are shown.

    >>> as_text("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, which no file system gives
        return name.encode("utf-8", "backslashreplace").decode()


def join(folder: str, name: str) -> str:
    return name if "://" in name else posixpath.join(folder, name)


def open_file(path: str) -> Any:
    """For reading bytes; it can seek."""
    system, inner = system_of(path)
    return system.open(inner, "rb")


def exists(path: str) -> bool:
    system, inner = system_of(path)
    return bool(system.exists(inner))


def size_of(path: str) -> int:
    """Bytes; 0 where the file system does not say."""
    system, inner = system_of(path)
    return int(system.info(inner).get("size") or 0)


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, on any file system: fsspec's own leaves out in silence what may not be listed below the first folder. Raises what listing does."""
    system, inner = system_of(folder)
    found = [one for one in system.ls(inner, detail=True) if one["name"].rstrip("/") != inner]  # stores may have a file that marks the folder itself
    named = [(posixpath.basename(one["name"].rstrip("/")), one["type"] == "directory") for one in found]
    folders = [name for name, is_folder in named if is_folder]
    yield folder, folders, [name for name, is_folder in named if not is_folder]
    for name in folders:
        yield from walk(join(folder, name))


def names_in(folder: str) -> list[str]:
    """Of the files in a folder, hidden ones left out; none where there is no folder. As they are now: others may have written there since."""
    system, inner = system_of(folder)
    system.invalidate_cache()
    if not system.exists(inner):
        return []
    return sorted(name for path in system.ls(inner, detail=False) if not (name := posixpath.basename(str(path).rstrip("/"))).startswith("."))


@contextmanager
def writing(path: str) -> Iterator[Path]:
    """A local file to be written; it is at `path` when the block ends without an error, and `path` stays as it was otherwise. On an object store a
    file appears when it is whole; one with halves has to be written by way of this machine's."""
    if "://" not in path:
        with replacing(path) as temporary:
            yield temporary
        return
    system, inner = system_of(path)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / posixpath.basename(path)
        yield temporary
        system.makedirs(posixpath.dirname(inner), exist_ok=True)
        system.put_file(str(temporary), inner)
