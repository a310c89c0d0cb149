"""The three benchmarks that come as Karpathy's split files: `coco`, `flickr30k` and `flickr8k`."""

import json
from pathlib import Path

import pytest

from capdec.corpus import open_dataset, read_pairs
from capdec.datasets.coco import Coco
from capdec.datasets.flickr8k import Flickr8k
from capdec.datasets.flickr30k import Flickr30k
from capdec.datasets.karpathy import Karpathy
from capdec.errors import DataError, SettingError

DATA = Path(__file__).parent.parent / "data"
PARTS = {"coco": Coco, "flickr30k": Flickr30k, "flickr8k": Flickr8k}
PHOTOS = {
    ("coco", "train"): 113_287, ("coco", "train_only"): 82_783, ("coco", "restval"): 30_504, ("coco", "val"): 5_000, ("coco", "test"): 5_000,
    ("flickr30k", "train"): 29_000, ("flickr30k", "val"): 1_014, ("flickr30k", "test"): 1_000,
    ("flickr8k", "train"): 6_000, ("flickr8k", "val"): 1_000, ("flickr8k", "test"): 1_000,
}  # fmt: skip


def whole(path: Path, dataset: str, photos: dict[str, int], extra: int = 0) -> Path:
    """A file with as many photos as said, of five captions each and `extra` captions more."""
    images = [
        {"split": split, "filename": f"{number}.jpg", "imgid": number, "sentences": [{"raw": "a dog"}] * 5}
        for split, count in photos.items()
        for number in range(count)
    ]
    images[0]["sentences"] = [{"raw": "a dog"}] * (5 + extra)
    path.write_text(json.dumps({"dataset": dataset, "images": images}))
    return path


@pytest.mark.parametrize("name", PARTS)
def test_the_sample_in_the_owners_layout_is_read(name):
    file = DATA / name / f"dataset_{name}.json"
    dataset = PARTS[name](file, "test", images=DATA / name, partial=True)
    (example,) = dataset
    assert (dataset.name, dataset.split, dataset.splits) == (name, "test", ("test",))
    assert len(example.captions) == 2 and example.open_image().size == (8, 6) and list(dataset) == [example]
    assert dataset.left_out == PHOTOS[name, "test"] - 1


def test_train_includes_restval_of_coco_unless_asked_otherwise():
    file = DATA / "coco/dataset_coco.json"
    read = {split: Coco(file, split, partial=True) for split in ("train", "train_only", "restval")}
    assert {split: dataset.splits for split, dataset in read.items()} == {
        "train": ("train", "restval"),
        "train_only": ("train",),
        "restval": ("restval",),
    }
    assert [len(list(dataset)) for dataset in read.values()] == [2, 1, 1]
    assert {("coco", split): dataset.left_out + len(list(dataset)) for split, dataset in read.items()}.items() <= PHOTOS.items()


def test_flickrs_ids_are_its_numbers():
    assert [example.image_id for example in Flickr8k(DATA / "flickr8k/dataset_flickr8k.json", "train", partial=True)] == ["101"]


@pytest.mark.parametrize(
    ("name", "split", "photos", "extra"),
    [
        ("coco", "test", {"test": 5_000}, 10),
        ("coco", "restval", {"restval": 30_504}, 114),
        ("flickr30k", "val", {"val": 1_014}, 0),
        ("flickr8k", "test", {"test": 1_000}, 0),
    ],
)
def test_a_whole_split_is_taken_and_one_photo_less_is_refused(tmp_path, name, split, photos, extra):
    dataset = PARTS[name](whole(tmp_path / "d.json", name, photos, extra), split)
    assert len(list(dataset)) == PHOTOS[name, split] and dataset.left_out == 0
    short = whole(tmp_path / "d.json", name, photos | {split: photos[split] - 1}, extra)
    with pytest.raises(DataError, match=rf"has {PHOTOS[name, split] - 1:,} photos in split {split}, and {PHOTOS[name, split]:,} were published"):
        PARTS[name](short, split)
    assert PARTS[name](short, split, partial=True).left_out == 1


def test_captions_are_counted_too(tmp_path):
    path = whole(tmp_path / "d.json", "coco", {"test": 5_000}, extra=9)
    with pytest.raises(DataError, match=r"25,009 captions in split test, and 25,010 were published.*caption_datasets\.zip.*--partial"):
        Coco(path)


@pytest.mark.parametrize(("name", "said"), [("coco", "zips/val2014.zip"), ("flickr30k", "DenotationGraph"), ("flickr8k", "8k-pictures.html")])
def test_missing_photos_are_looked_for_first_and_the_error_says_whence_they_come(tmp_path, name, said):
    with pytest.raises(DataError, match=f"1 of 1 photos are missing.*{said}"):
        PARTS[name](DATA / name / f"dataset_{name}.json", images=tmp_path, partial=True)


def test_another_datasets_file_is_refused():
    with pytest.raises(DataError, match=r"is of 'flickr30k', and 'coco' was asked for.*karpathy"):
        Coco(DATA / "flickr30k/dataset_flickr30k.json", partial=True)


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_file_says_where_it_comes_from(tmp_path, name):
    with pytest.raises(DataError, match=r"none\.json does not exist.*deepimagesent/caption_datasets\.zip"):
        PARTS[name](tmp_path / "none.json")


def test_an_unknown_split_shows_the_choices():
    with pytest.raises(SettingError, match=r"train, train_only, restval, val, test, not 'dev'"):
        Coco("d.json", "dev")
    with pytest.raises(SettingError, match=r"flickr8k is one of train, val, test, not 'restval'"):
        Flickr8k("d.json", "restval")


def test_a_recipe_asks_for_it_by_name():
    table = {"name": "coco", "path": str(DATA / "coco/dataset_coco.json"), "split": "train", "partial": True}
    assert read_pairs(open_dataset(table)).image_ids == ["11", "11", "12", "12"]


def test_a_file_given_without_a_name_is_the_general_readers_so_that_nobody_trains_on_test_unasked():
    file = DATA / "coco/dataset_coco.json"
    assert Karpathy.recognises(file) and not any(part.recognises(file) for part in PARTS.values())
