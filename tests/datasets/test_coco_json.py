import json

import pytest

from capdec.datasets.coco_json import CocoJSON
from capdec.datasets.karpathy import Karpathy
from capdec.errors import DataError
from capdec.protocols import Example


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_captions_are_grouped_by_image_in_the_order_of_images(tmp_path):
    dataset = CocoJSON.tiny(tmp_path)
    first, second = dataset
    assert (first.image_id, first.captions) == ("1", ("a red wall", "a wall in red"))
    assert (second.image_id, second.captions) == ("2", ("a blue wall",))
    assert [example.image_id for example in dataset] == ["1", "2"], "a second reading gives the same"
    assert first.open_image().getpixel((0, 0)) == (255, 0, 0)
    assert dataset.name == "coco"


def test_without_the_folder_of_images_it_is_text_alone(tmp_path):
    path = write(tmp_path / "c.json", {"images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 1, "caption": "a\n dog "}]})
    assert list(CocoJSON(path)) == [Example(("a dog",), "1")]
    assert CocoJSON(path).name is None


def test_a_photo_that_is_not_there_is_known_at_once_and_left_out_only_if_asked(tmp_path):
    path = CocoJSON.tiny(tmp_path).path
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 photos are missing: 2\.png\. Looked for in .*--partial"):
        CocoJSON(path, images=tmp_path)
    dataset = CocoJSON(path, images=tmp_path, partial=True)
    assert [example.image_id for example in dataset] == ["1"] and dataset.left_out == 1


def test_dataset_and_split_can_be_told(tmp_path):
    dataset = CocoJSON(CocoJSON.tiny(tmp_path).path, dataset="walls", split="val")
    assert (dataset.name, dataset.split) == ("walls", "val")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{broken", "cannot be read as JSON"),
        ([1, 2], "holds no COCO captions"),
        ({"images": []}, "'annotations'"),
        ({"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}, "'caption'"),
        ({"images": [{"id": 1}], "annotations": [{"image_id": 9, "caption": "a dog"}]}, "'9'"),
        ({"images": [{"id": 1}], "annotations": []}, "holds no captions"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path, content, said):
    with pytest.raises(DataError, match=said) as caught:
        CocoJSON(write(tmp_path / "c.json", content))
    assert "c.json" in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.json"):
        CocoJSON(tmp_path / "none.json")


def test_the_two_json_datasets_are_told_apart(tmp_path):
    coco = CocoJSON.tiny(tmp_path).path
    karpathy = Karpathy.tiny(tmp_path).path
    other = write(tmp_path / "other.json", {"said": '"annotations": [ "sentences": ['})
    assert [part.recognises(path) for path in (coco, karpathy, other, tmp_path / "none.json") for part in (CocoJSON, Karpathy)] == [
        *(True, False),
        *(False, True),
        *(False, False),
        *(False, False),
    ]
