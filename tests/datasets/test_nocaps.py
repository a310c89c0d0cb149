import json
from pathlib import Path

import pytest

from capdec.datasets.nocaps import NoCaps
from capdec.errors import DataError, SettingError

DATA = Path(__file__).parent.parent / "data/nocaps"
FILE = DATA / "nocaps_val_4500_captions.json"


def whole(path: Path, photos: int = 4_500, extra: int = 0, domain: str = "in-domain", captions: int = 10) -> Path:
    images = [{"id": number, "file_name": f"{number}.jpg", "domain": domain} for number in range(photos)]
    annotations = [{"image_id": number, "caption": "a dog"} for number in range(photos) for _ in range(captions)]
    path.write_text(json.dumps({"images": images, "annotations": annotations + annotations[:1] * extra}))
    return path


def test_the_sample_in_the_owners_layout_is_read_with_domains_as_groups():
    dataset = NoCaps(FILE, images=DATA, partial=True)
    examples = list(dataset)
    assert [example.group for example in examples] == ["in-domain", "near-domain", "out-domain"]
    assert [example.image_id for example in examples] == ["0", "1", "2"]
    assert all(len(example.captions) == 10 and example.open_image().size == (8, 6) for example in examples)
    assert (dataset.name, dataset.split, dataset.left_out) == ("nocaps", "val", 4_497)


def test_the_whole_set_is_taken_and_other_counts_are_refused(tmp_path):
    assert len(list(NoCaps(whole(tmp_path / "n.json")))) == 4_500
    for settings, said in (
        ({"photos": 4_499}, "4,499 photos in split val, and 4,500 were published"),
        ({"extra": 1}, "45,001 captions"),
        ({"extra": 4_500, "captions": 9}, "1 photos with more than 10 captions"),
    ):
        with pytest.raises(DataError, match=said):
            NoCaps(whole(tmp_path / "n.json", **settings))
    with pytest.raises(DataError, match=r"'elsewhere', not in-domain, near-domain, out-domain"):
        NoCaps(whole(tmp_path / "n.json", domain="elsewhere"))


def test_the_test_sets_captions_are_not_public_and_there_is_none_to_train_on():
    with pytest.raises(SettingError, match=r"not public.*https://nocaps\.org"):
        NoCaps(FILE, "test")
    with pytest.raises(SettingError, match="none to train on"):
        NoCaps(FILE, "train")


def test_what_is_missing_comes_with_where_it_is(tmp_path):
    with pytest.raises(DataError, match=r"none\.json does not exist.*nocaps_val_4500_captions\.json"):
        NoCaps(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"3 of 3 photos are missing: 0000000000000001\.jpg.*Open Images V4.*coco_url"):
        NoCaps(FILE, images=tmp_path, partial=True)
    (tmp_path / "info.json").write_text('{"images": [{"id": 0, "file_name": "0.jpg"}]}')  # the file of photos, without captions
    with pytest.raises(DataError, match=r"'annotations'.*nocaps_val_4500_captions\.json"):
        NoCaps(tmp_path / "info.json")
