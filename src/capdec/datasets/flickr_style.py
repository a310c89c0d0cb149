"""FlickrStyle10K (Gan et al. 2017, "StyleNet"): a romantic and a humorous caption for photos of Flickr8k's.

As released (https://zhegan27.github.io/Papers/FlickrStyle_v0.9.zip), 7,000 of the 10,000 photos:

    FlickrStyle_v0.9/romantic/romantic_train.txt    a caption a line, Windows-1252 here and there
    FlickrStyle_v0.9/romantic/train.p               a pickle: the list of these photos' file names
    FlickrStyle_v0.9/humor/funny_train.txt, train.p

A pickle can run code, so this one is never unpickled: its opcodes are walked through, and its strings read.
"""

import hashlib
import json
import pickletools
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from capdec.annotations import check_counts
from capdec.errors import DataError, SettingError, brief
from capdec.photos import Row, flickr_number, with_photos
from capdec.protocols import Example

SOURCE = "FlickrStyle10K's captions are in https://zhegan27.github.io/Papers/FlickrStyle_v0.9.zip."
PHOTOS = "FlickrStyle10K's photos are Flickr8k's (and Flickr30k's), given on request: https://forms.illinois.edu/sec/1713398."
FILES = {"romantic": ("romantic", "romantic_train.txt"), "humorous": ("humor", "funny_train.txt")}
WHOLE, TEST = 7_000, 1_000
STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
MEMORISE, RECALL = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
LISTS = ("PROTO", "FRAME", "MARK", "LIST", "EMPTY_LIST", "APPEND", "APPENDS", "STOP")


class FlickrStyle:
    """An example a photo, with its caption of one `style`, "romantic" or "humorous". `path` is the folder FlickrStyle_v0.9, or a .jsonl of one style
    with lines {"image_id": "2448270671", "captions": [...]}. An image_id is Flickr's number, on which Flickr8k, Flickr30k and FlickrStyle10K join:
    name one of those as `sources` for a factual caption of the same photo. `images` is the photos' folder.

    No official split is published: papers cut the 7,000 at random, mostly into 6,000 and 1,000, and do not say where. `split` "train" and "test" are
    **capdec's own** of these sizes (ordered by the SHA-256 of their numbers, the first 1,000 photos are the test set, for both styles the same), so
    scores cannot be compared with a paper's digit for digit. `ids` is a text file of image ids or file names, one a line, for a paper's own:
    then these are the photos, and `split` is only what they are called.

    A release with other than 7,000 captions, ids that are not in it and missing photos are refused, unless `partial`: then `left_out` says how many
    photos are not there, and the test set is a seventh, at most 1,000. `name` names Flickr8k too, whose photos these are: a backbone that saw
    Flickr8k's pairs has seen them. Raises DataError and SettingError. It is asked for by name.
    """

    suffixes: tuple[str, ...] = ()
    name: str | None = "flickr8k+flickrstyle10k"
    source = f"{SOURCE} {PHOTOS}"

    def __init__(
        self,
        path: str | Path,
        split: str = "test",
        images: str | Path | None = None,
        partial: bool = False,
        style: str = "romantic",
        ids: str | Path | None = None,
    ):
        if style not in FILES:
            raise SettingError(f"style is one of {', '.join(FILES)}, not {style!r}.")
        if split not in ("train", "test") and ids is None:
            raise SettingError(f"split of flickr_style is train or test, not {split!r}. Another needs a list of its photos: ids=FILE.")
        path = Path(path)
        self.split: str | None = split
        captions: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        pairs = [*(_from_lines(path) if path.suffix.lower() == ".jsonl" else _from_release(path, *FILES[style]))]
        if not partial:
            check_counts(path, f"style {style}", "captions", len(pairs), WHOLE, SOURCE)
        for file_name, caption in pairs:
            if caption:
                captions.setdefault(flickr_number(file_name), []).append(caption)
                names[flickr_number(file_name)] = file_name
        if ids is None:
            ordered = sorted(captions, key=lambda number: hashlib.sha256(number.encode()).digest())
            test = set(ordered[: min(TEST, -(-len(ordered) // 7))])
            chosen = [number for number in captions if (number in test) == (split == "test")]
            wanted = TEST if split == "test" else WHOLE - TEST
        else:
            listed = _listed(Path(ids))
            chosen, wanted = [number for number in listed if number in captions], len(listed)
            if len(chosen) < wanted and not partial:
                lacking = [number for number in listed if number not in captions]
                raise DataError(
                    f"{len(lacking):,} of {wanted:,} ids of {ids} are not in {path}: {', '.join(lacking[:5])}. partial=True leaves them out."
                )
        if not chosen:
            raise DataError(f"{path} holds no captions of style {style} for {split if ids is None else ids}. {SOURCE}")
        rows: list[Row] = [(Example(tuple(captions[number]), number), (names[number], number)) for number in chosen]
        self.examples, _ = with_photos(rows, images, partial, PHOTOS)
        self.left_out = max(0, wanted - len(self.examples)) if partial else 0

    @classmethod
    def recognises(cls, path: str | Path) -> bool:
        return False

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @classmethod
    def tiny(cls, folder: Path) -> "FlickrStyle":
        names = [f"{100 + number}_{number:010x}.jpg" for number in range(1, 4)]  # Flickr8k's tiny photos
        for (style, file_name), what in zip(FILES.values(), ("in love with the evening", "that forgot its house"), strict=True):
            (folder / style).mkdir(exist_ok=True)
            strings = "".join(f"V{name}\np{place}\na" for place, name in enumerate(names, 1))
            (folder / style / "train.p").write_text(f"(lp0\n{strings}.", newline="\n")  # what pickle's protocol 0 makes of the list
            lines = [f"a {colour} wall {what} ." for colour in ("red", "blue", "green")]
            (folder / style / file_name).write_bytes("\n".join([*lines[:2], lines[2].replace("wall", "caf\xe9 wall")]).encode("cp1252") + b"\n")
        for name, colour in zip(names, ("red", "blue", "green"), strict=True):
            Image.new("RGB", (8, 6), colour).save(folder / name, quality=30)
        return cls(folder, "train", images=folder, partial=True)


def _from_release(path: Path, style: str, captions_file: str) -> Iterator[tuple[str, str]]:
    """(file name, caption) of each photo. Raises DataError."""
    names = _strings(path / style / "train.p")
    captions = [_decoded(line) for line in _content(path / style / captions_file).removesuffix(b"\n").split(b"\n")]
    if len(captions) != len(names):
        captions = [caption for caption in captions if any(map(str.isalpha, caption))]  # without lines that are blank or hold a stray sign
    if len(captions) != len(names):
        raise DataError(f"{path / style / captions_file} has {len(captions):,} captions for the {len(names):,} photos of train.p beside it. {SOURCE}")
    yield from zip(names, captions, strict=True)


def _from_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_content(path).splitlines(), 1):
        try:
            if line.strip():
                row = json.loads(line)
                said = row["captions"]
                yield from ((str(row["image_id"]), " ".join(caption.split())) for caption in ([said] if isinstance(said, str) else said))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f'{path}:{number} cannot be used ({brief(error)}). A line looks like {{"image_id": "7", "captions": ["a dog"]}}.'
            ) from error


def _content(path: Path, hint: str = f"Name the folder FlickrStyle_v0.9, or a .jsonl file. {SOURCE}") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {hint}") from error


def _decoded(line: bytes) -> str:
    try:
        return " ".join(line.decode("utf-8").split())
    except UnicodeDecodeError:
        return " ".join(line.decode("cp1252", errors="replace").split())


def _listed(path: Path) -> list[str]:
    """Flickr's numbers of the photos in a text file, in order and each once."""
    lines = _content(path, "It is a text file with an image id, or a file name, a line.").decode("utf-8-sig", errors="replace").split()
    return list(dict.fromkeys(map(flickr_number, lines)))


def _strings(path: Path) -> list[str]:
    """The strings of a pickled list. Nothing is executed: an opcode that does more than build this list is refused, with a DataError."""
    found: list[str] = []
    memory: dict[int, str | None] = {}
    top: str | None = None  # of the pickle machine's stack: the last string, or None where the list is
    try:
        for opcode, argument, place in pickletools.genops(_content(path)):
            kind = opcode.name
            if kind in MEMORISE:
                memory[len(memory) if argument is None else int(argument)] = top
            elif kind in STRINGS or (kind in RECALL and memory.get(int(argument or 0)) is not None):
                top = memory[int(argument or 0)] if kind in RECALL else str(argument)
                found.append(str(top))
            elif kind in LISTS:
                top = None
            else:
                raise DataError(f"{path} is refused: byte {place} has the opcode {kind}, and a list of file names needs none such. {SOURCE}")
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no whole pickle: {error}. {SOURCE}") from error
    return found
