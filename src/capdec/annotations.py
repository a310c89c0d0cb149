"""The two JSON formats in which captioned photos are published, and the counts that a published split is checked against.

COCO's annotations (captions_train2014.json, NoCaps):
{"images": [{"id": 9, "file_name": "9.jpg"}], "annotations": [{"image_id": 9, "caption": "a dog runs"}]}

The split files of Karpathy and Fei-Fei 2015 (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json):
{"dataset": "coco", "images": [{"split": "train", "filepath": "val2014", "filename": "9.jpg", "cocoid": 9, "sentences": [{"raw": "A dog runs."}]}]}
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from capdec.errors import DataError, SettingError, brief
from capdec.photos import Row, flickr_number, with_photos
from capdec.protocols import Example

KARPATHY = "Karpathy's split files are in https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip."
SPLITS = {"train": ("train", "restval"), "train_only": ("train",), "restval": ("restval",), "val": ("val",), "test": ("test",)}
"""What a setting `split` reads of a Karpathy file. As everywhere in the field, train includes restval: images of COCO's validation set that are in
neither val nor test. Some papers leave them out: train_only."""


class Annotations(NamedTuple):
    """What a file says: its dataset, a row for each photo with captions, and how many photos and captions it lists, blank ones included."""

    dataset: str | None
    rows: list[Row]
    photos: int
    captions: int


@dataclass(frozen=True)
class Published:
    """What is known of a dataset that comes as a Karpathy file: photos and captions by split (captions None: not checked), and where photos are."""

    dataset: str
    counts: Mapping[str, tuple[int, int | None]]
    photos: str


def read_coco(path: Path, source: str = "") -> Annotations:
    """Rows in the order of the file's images; a photo's `domain` (NoCaps has it) is its group. Raises DataError; `source` says where the file is."""
    content = _read(path, source)
    try:
        files = {str(image["id"]): (image.get("file_name"), image.get("domain")) for image in content["images"]}
        if len(files) < len(content["images"]):
            doubled = [key for key, times in Counter(str(image["id"]) for image in content["images"]).items() if times > 1]
            raise DataError(f"{path} has {len(doubled)} image ids more than once ({', '.join(doubled[:200])}): ids must be unique. {source}".rstrip())
        captions: dict[str, list[str]] = {image_id: [] for image_id in files}
        for annotation in content["annotations"]:
            captions[str(annotation["image_id"])].append(" ".join(annotation["caption"].split()))
        info = content.get("info")
        description = str(info.get("description")) if isinstance(info, dict) else ""
    except (KeyError, TypeError, AttributeError) as error:
        wanted = "images with an id, and annotations with image_id and caption"
        raise DataError(f"{path} holds no COCO captions ({brief(error)}). It needs {wanted}. {source}".rstrip()) from error
    rows: list[Row] = [
        (Example(texts, image_id, group=group if isinstance(group, str) else None), (str(name),) if name else ())
        for image_id, (name, group) in files.items()
        if (texts := tuple(filter(None, captions[image_id])))
    ]
    if not rows:
        raise DataError(f"{path} holds no captions: its annotations are empty.")
    return Annotations("coco" if "COCO" in description else None, rows, len(files), sum(map(len, captions.values())))


def read_karpathy(path: Path, splits: Sequence[str], source: str = KARPATHY) -> Annotations:
    """Rows of these splits. A photo's id is COCO's own, or of Flickr8k and Flickr30k Flickr's number, else `imgid`; it is looked for under
    filepath/filename and filename. Raises DataError; `source` says where the file is."""
    content = _read(path, source)
    rows: list[Row] = []
    photos = captions = 0
    try:
        dataset = content.get("dataset")
        for image in content["images"]:
            if image["split"] in splits:
                file_name, inside = image["filename"], image.get("filepath")
                flickr = str(dataset).startswith("flickr")
                number = image["cocoid"] if "cocoid" in image else flickr_number(file_name) if flickr else image["imgid"]
                texts = [" ".join(sentence["raw"].split()) for sentence in image["sentences"]]
                photos, captions = photos + 1, captions + len(texts)
                example = Example(tuple(filter(None, texts)), str(number))
                if example.captions:
                    rows.append((example, (f"{inside}/{file_name}", file_name) if inside else (file_name,)))
    except (KeyError, TypeError, AttributeError) as error:
        wanted = "images with split, sentences, filename, and cocoid or imgid"
        raise DataError(f"{path} is not one of Karpathy's split files ({brief(error)}). It needs {wanted}. {source}".rstrip()) from error
    if not rows:
        there = ", ".join(sorted({image["split"] for image in content["images"]})) or "none"
        raise DataError(f"{path} holds no captions of split {' or '.join(splits)}. Its splits: {there}.")
    return Annotations(dataset, rows, photos, captions)


def read_published(
    path: Path, split: str, images: str | Path | None, partial: bool, published: Published
) -> tuple[tuple[str, ...], list[Example], int]:
    """The splits of the file that were read, the examples, and how many of the published split's photos are not among them: none, unless `partial`.
    Raises SettingError for a split there is not, and DataError for another dataset, other counts than the published ones, or missing photos."""
    counts = published.counts
    choices = [name for name in SPLITS if name in counts or (name == "train_only" and "restval" in counts)]
    if split not in choices:
        raise SettingError(f"split of {published.dataset} is one of {', '.join(choices)}, not {split!r}.")
    splits = tuple(name for name in SPLITS[split] if name in counts)
    found = read_karpathy(path, splits)
    if found.dataset != published.dataset:
        raise DataError(
            f"{path} is of {found.dataset!r}, and {published.dataset!r} was asked for. The part `karpathy` reads any file of this format."
        )
    wanted = sum(counts[name][0] for name in splits)
    if not partial:
        captions = [counts[name][1] for name in splits]
        check_counts(path, f"split {split}", "photos", found.photos, wanted, KARPATHY)
        if None not in captions:
            check_counts(path, f"split {split}", "captions", found.captions, sum(filter(None, captions)), KARPATHY)
    examples, _ = with_photos(found.rows, images, partial, published.photos)
    return splits, examples, max(0, wanted - len(examples))


def write_karpathy_sample(folder: Path, dataset: str, names: Mapping[str, tuple[str, str]]) -> Path:
    """A file of the format and its photos, for tests: a photo of one colour for each split -> (filepath, filename)."""
    images: list[dict[str, Any]] = []
    for (split, (inside, file_name)), colour in zip(names.items(), ("red", "blue", "green", "white"), strict=False):
        (folder / inside).mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), colour).save(folder / inside / file_name, quality=30)
        sentences = [{"raw": f"A {colour} wall.", "tokens": ["a", colour, "wall"]}, {"raw": f"A wall in {colour}."}]
        number = {"imgid": len(images)} | ({"cocoid": len(images) + 11} if dataset == "coco" else {})
        images.append({"split": split, "filename": file_name, "sentences": sentences} | ({"filepath": inside} if inside else {}) | number)
    path = folder / f"dataset_{dataset}.json"
    path.write_text(json.dumps({"images": images, "dataset": dataset}, indent=1) + "\n", encoding="utf-8")
    return path


def check_counts(path: Path, part: str, what: str, found: int, wanted: int, source: str) -> None:
    """Raises DataError where a file has other counts than were published: a score on it would be compared with scores on something else."""
    if found != wanted:
        raise DataError(
            f"{path} has {found:,} {what} in {part}, and {wanted:,} were published. {source} A sample is read as a part (--partial, in a "
            f"recipe partial = true), and so are its scores."
        )


def _read(path: Path, source: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. {source or 'Check the path.'}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. {source}".rstrip()) from error
