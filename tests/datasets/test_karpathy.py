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
    assert [ids(Karpathy(path, split)) for split in ("restval", "val", "test")] == [["1"], ["2"], ["3"]]


def test_captions_are_the_raw_sentences_and_the_name_is_the_files(path):
    dataset = Karpathy(path, "test")
    assert [example.captions for example in dataset] == [("A white wall.", "A wall in white.")]
    assert list(dataset) == list(dataset)
    assert dataset.name == "coco"
    assert next(iter(dataset)).open_image is None


def test_photos_are_found_with_and_without_their_folder(path, tmp_path):
    for folder in (tmp_path, tmp_path / "photos"):
        assert [example.open_image().getpixel((0, 0)) for example in Karpathy(path, "val", images=folder)] == [(0, 128, 0)]


def test_cocos_own_id_is_preferred(tmp_path):
    image = {"split": "val", "filename": "a.jpg", "imgid": 0, "cocoid": 391895, "sentences": [{"raw": "a dog"}]}
    (tmp_path / "d.json").write_text(json.dumps({"dataset": "coco", "images": [image]}))
    assert ids(Karpathy(tmp_path / "d.json", "val")) == ["391895"]


def test_an_unknown_split_shows_the_choices(path):
    with pytest.raises(SettingError, match=r"train, restval, val, test.*'valid'"):
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
