import json

import pytest

from capdec.datasets.karpathy import Karpathy
from capdec.errors import DataError, SettingError


@pytest.fixture
def path(tmp_path):
    return Karpathy.tiny(tmp_path).path


def ids(dataset: Karpathy) -> list[str | None]:
    return [example.image_id for example in dataset]


def test_train_includes_restval_and_says_so(path):
    assert ids(Karpathy(path)) == ["0", "1"] and Karpathy(path).splits == ("train", "restval")
    assert [ids(Karpathy(path, split)) for split in ("train_only", "restval", "val", "test")] == [["0"], ["1"], ["2"], ["3"]]


def test_captions_are_the_raw_sentences_and_the_name_is_the_files(path):
    dataset = Karpathy(path, "test")
    assert [example.captions for example in dataset] == [("A white wall.", "A wall in white.")]
    assert list(dataset) == list(dataset)
    assert dataset.name == "walls" and Karpathy(path, dataset="other").name == "other"
    assert next(iter(dataset)).open_image is None


def test_photos_are_found_with_and_without_their_folder(path, tmp_path):
    for folder in (tmp_path, tmp_path / "photos"):
        assert [example.open_image().getpixel((0, 0)) for example in Karpathy(path, "val", images=folder)] == [(0, 128, 0)]


def test_photos_that_are_missing_are_left_out_only_if_asked(path, tmp_path):
    (tmp_path / "photos/1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 photos are missing: photos/1\.png"):
        Karpathy(path, images=tmp_path)
    dataset = Karpathy(path, images=tmp_path, partial=True)
    assert ids(dataset) == ["0"] and dataset.left_out == 1


@pytest.mark.parametrize(
    ("dataset", "ids_of_image", "found"),
    [
        ("coco", {"imgid": 0, "cocoid": 391895}, "391895"),
        ("flickr8k", {"imgid": 0}, "2448270671"),
        ("flickr30k", {"imgid": 0}, "2448270671"),
        ("walls", {"imgid": 0}, "0"),
    ],
)
def test_an_id_is_cocos_own_or_flickrs_number_so_that_files_join(tmp_path, dataset, ids_of_image, found):
    image = {"split": "val", "filename": "2448270671_5e0e391a80.jpg", "sentences": [{"raw": "a dog"}], **ids_of_image}
    (tmp_path / "d.json").write_text(json.dumps({"dataset": dataset, "images": [image]}))
    assert ids(Karpathy(tmp_path / "d.json", "val")) == [found]


def test_an_unknown_split_shows_the_choices(path):
    with pytest.raises(SettingError, match=r"train, train_only, restval, val, test.*'valid'"):
        Karpathy(path, "valid")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{broken", "cannot be read as JSON"),
        ('{"annotations": []}', "not one of Karpathy's"),
        ('{"images": [{"split": "train"}]}', "imgid"),
        ('{"images": []}', "Its splits: none"),
        ('{"images": [{"split": "test"}]}', "train or restval. Its splits: test"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path, content, said):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(DataError, match=said):
        Karpathy(tmp_path / "d.json")
