"""A recipe is one TOML file that fully describes a run:

    captions = "captions.jsonl"
    backbone = "mini"

    [[bridges]]
    name = "gaussian_noise"
    target_cosine = 0.5

    [decoder]
    name = "small_transformer"
    layers = 4

    [training]
    steps = 3000

A part is its name, or a table of its name and settings. The resolved recipe (with everything that was set on the command line) is written beside
every result.
"""

import dataclasses
import json
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

import capdec
from capdec.errors import SettingError

Recipe = dict[str, Any]
T = TypeVar("T")
KEYS = (
    *("captions", "sources", "start", "backbone", "bridges", "decoder", "training", "paired_photos", "unpaired_photos", "decoding", "chosen"),
    "language",
    "evaluation",
)
"""What a recipe may hold: the arguments of `train.train`, and what `capdec evaluate --recipe` reads."""


def read(path: Path | str) -> Recipe:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingError(f"no recipe at {path}. Name a TOML file, or leave --recipe out for the defaults.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}.") from error


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """A copy with `key=value` assignments made; dots go into tables, numbers into lists, values are JSON or else plain words.

    >>> override({"bridges": [{"name": "gaussian_noise"}]}, ["bridges.0.std=0.1", "decoder.layers=4", "backbone=mini"])
    {'bridges': [{'name': 'gaussian_noise', 'std': 0.1}], 'decoder': {'layers': 4}, 'backbone': 'mini'}
    """
    result = json.loads(json.dumps(recipe))
    for assignment in assignments:
        path, value = read_assignment(assignment)
        *parents, last = path.split(".")
        place: Any = result
        for index, name in enumerate(parents):
            key: Any = _position(place, name, assignment) if isinstance(place, list) else name
            inner = place[key] if isinstance(place, list) else place.get(key, {})
            if isinstance(inner, str):  # a part given by name alone becomes a table
                inner = {"name": inner}
            if not isinstance(inner, dict | list):
                raise SettingError(f"{'.'.join(parents[: index + 1])} is a plain value, so {assignment!r} has nothing to go into.")
            place[key] = inner
            place = inner
        place[_position(place, last, assignment) if isinstance(place, list) else last] = value
    return result


def read_assignment(assignment: str) -> tuple[str, Any]:
    """The key and the value of `key=value`, in JSON; a table or a list in TOML too, as recipes have them; or a bare word. Raises SettingError.

    >>> read_assignment("training.steps=500"), read_assignment('captions={path = "a.jsonl"}'), read_assignment("decoder=prefix_lm")
    (('training.steps', 500), ('captions', {'path': 'a.jsonl'}), ('decoder', 'prefix_lm'))
    """
    path, equals, text = assignment.partition("=")
    if not equals or not all(path.split(".")):
        raise SettingError(f"--set takes key=value, for example decoder.layers=4; this came: {assignment!r}.")
    try:
        return path, json.loads(text)
    except json.JSONDecodeError:
        pass
    if text.lstrip()[:1] in ("{", "["):
        try:
            return path, tomllib.loads("value = " + text.replace("\n", " "))["value"]
        except tomllib.TOMLDecodeError as error:
            if text.strip()[0] + text.strip()[-1] == "{}":  # else it may be a pattern of files
                raise SettingError(
                    f"{text} is no table, neither JSON nor TOML ({error}). Quote its words, and what you give for your shell."
                ) from error
    return path, text


def _position(values: list, key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(values):
        raise SettingError(f"{assignment!r}: {key!r} is not one of the {len(values)} places, counted from 0.")
    return int(key)


def settings(table: str, kind: type[T], values: dict[str, Any]) -> T:
    """A recipe's table as the dataclass of its settings. Raises SettingError for an unknown name, showing those there are."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise SettingError(f"{table} has no setting {', '.join(map(repr, unknown))}. Its settings: {', '.join(known)}.")
    return kind(**values)


def dump(recipe: Recipe) -> str:
    """TOML; keys without a value are left out, since TOML has no null."""
    return tomli_w.dumps(_without_none(recipe))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value


def origin() -> dict[str, Any]:
    """What stands beside every result: the version, in a checkout the commit ("+" where files differ from it), and the time."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {"capdec": capdec.__version__, "commit": commit, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
