"""Find and build a part by its file's name. The folders are the registry: `bridge = "gaussian_noise"` is the file bridges/gaussian_noise.py and in it
the class GaussianNoise. A part of the user's own is named "package.module:Class" or "file.py:Class"."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from capdec.errors import SettingError, UnknownPart

KINDS = ("backbones", "bridges", "decoders", "datasets", "metrics")


def names(kind: str) -> list[str]:
    """The parts of a kind, without importing any of them."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / kind)]))


def find(kind: str, name: str) -> type:
    """The class of that name. Raises UnknownPart, showing the choices."""
    if ":" in name:
        return load_object(name)
    if name not in names(kind):
        near = get_close_matches(name, names(kind), 1)
        raise UnknownPart(
            f"no {kind.removesuffix('s')} is called {name!r}{f'; did you mean {near[0]!r}?' if near else '.'} There are: {', '.join(names(kind))}. "
            f"One of your own is named package.module:Class."
        )
    module = importlib.import_module(f"capdec.{kind}.{name}")
    wanted = name.replace("_", "")
    return next(value for key, value in vars(module).items() if key.lower() == wanted and inspect.isclass(value))


def load_object(spec: str) -> Any:
    """What "package.module:Name" or "file.py:Name" stands for."""
    where, _, name = spec.rpartition(":")
    try:
        if where.endswith(".py"):
            source = importlib.util.spec_from_file_location(where, where)  # the path as name: it hides no other module
            assert source is not None and source.loader is not None
            module = sys.modules[where] = importlib.util.module_from_spec(source)  # dataclasses look their module up
            source.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, name)
    except (ModuleNotFoundError, FileNotFoundError, AttributeError, ValueError) as error:
        raise UnknownPart(f"{spec!r} could not be loaded ({error}). It is written package.module:Class or file.py:Class.") from error


def settings(part: type) -> dict[str, Any]:
    """A part's settings with their defaults; `inspect.Parameter.empty` where there is none."""
    return {name: parameter.default for name, parameter in inspect.signature(part).parameters.items()}


def build(kind: str, spec: str | dict[str, Any], **given: Any) -> Any:
    """A part from a recipe: its name, or a table of `name` and settings. `given` is what the job adds (`dim`, `device`) where the part takes it.
    Raises UnknownPart or SettingError, showing the choices."""
    table = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in table:
        raise SettingError(f"a {kind.removesuffix('s')} needs a name, but the recipe says only {table}. There are: {', '.join(names(kind))}.")
    part = find(kind, table.pop("name"))
    takes = settings(part)
    own = [key for key in takes if key not in given]
    unknown = [key for key in table if key not in own]
    missing = [key for key in own if takes[key] is inspect.Parameter.empty and key not in table]
    if unknown or missing:
        wrong = f"has no setting {', '.join(map(repr, unknown))}" if unknown else f"needs {', '.join(map(repr, missing))}"
        raise SettingError(f"{part.__name__} {wrong}. Its settings: {', '.join(own) or 'none'}.")
    return part(**{key: value for key, value in given.items() if key in takes}, **table)
