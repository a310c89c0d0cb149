import time

import pytest
from PIL import Image

from capdec.errors import DataError
from capdec.photos import with_photos
from capdec.protocols import Example


def rows(*names: str):
    return [(Example((f"a photo called {name}",), name), (name,)) for name in names]


@pytest.fixture
def folder(tmp_path):
    for place, colour in {"1.png": "red", "2.JPG": "blue", "deep/3.jpg": "green", "2448270671_5e0e391a80.jpg": "white"}.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), colour).save(tmp_path / place)
    (tmp_path / "note.txt").write_text("no photo")
    return tmp_path


def test_without_a_folder_the_examples_are_text_alone():
    assert with_photos(rows("1.png"), None) == ([Example(("a photo called 1.png",), "1.png")], 0)


def test_photos_are_found_by_name_without_suffix_in_folders_and_by_flickrs_number(folder):
    examples, left_out = with_photos(rows("1.png", "1", "2", "deep/3.jpg", "deep/3", "2448270671", str(folder / "1.png")), folder)
    assert [example.open_image().getpixel((0, 0)) for example in examples[:2]] == [(255, 0, 0)] * 2
    assert len(examples) == 7 and left_out == 0 and all(example.open_image().size == (8, 6) for example in examples)


@pytest.mark.parametrize("name", ["3.jpg", "not", "note", "244827", "24482706710", "5", "", "none/1.png"])
def test_what_only_resembles_a_photos_name_is_not_taken_for_it(folder, name):
    with pytest.raises(DataError, match="1 of 1 photos are missing"):
        with_photos(rows(name), folder)


def test_a_number_before_an_underscore_is_flickrs_only_with_a_secret_after_it(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "7_second.jpg")
    with pytest.raises(DataError, match="missing: 7"):
        with_photos(rows("7"), tmp_path)


def test_the_first_name_that_is_there_counts(folder):
    (example,), _ = with_photos([(Example(("a dog",)), ("deep/1.png", "1.png"))], folder)
    assert example.open_image().getpixel((0, 0)) == (255, 0, 0)


def test_missing_photos_are_one_error_that_says_how_many_which_where_and_whence(folder):
    with pytest.raises(DataError) as caught:
        with_photos(rows("1.png", *(f"val2014/{number}.jpg" for number in range(7))), folder, source="They are at https://example.org.")
    said = str(caught.value)
    assert "7 of 8 photos are missing: val2014/0.jpg, val2014/1.jpg, val2014/2.jpg, val2014/3.jpg, val2014/4.jpg ..." in said
    assert f"Looked for in {folder} and {folder}/val2014. They are at https://example.org. As a part (--partial" in said
    assert "\n" not in said


def test_a_folder_that_is_none_is_said_to_be_none(tmp_path):
    with pytest.raises(DataError, match=r"missing: 1\.png.*none is no folder"):
        with_photos(rows("1.png"), tmp_path / "none")


def test_a_part_is_read_if_asked_for_but_not_nothing(folder):
    examples, left_out = with_photos(rows("1.png", "x.png", "y.png"), folder, partial=True)
    assert [example.image_id for example in examples] == ["1.png"] and left_out == 2
    with pytest.raises(DataError, match="2 of 2 photos are missing"):
        with_photos(rows("x.png", "y.png"), folder, partial=True)


def test_a_photo_nobody_named_is_missing(folder):
    with pytest.raises(DataError, match=r"a photo without a name \(image_id 4\)"):
        with_photos([(Example(("a dog",), "4"), ())], folder)


def test_many_photos_are_looked_for_in_no_time(tmp_path):
    for number in range(2_000):
        (tmp_path / f"COCO_val2014_{number:012d}.jpg").touch()
    wanted = rows(*(f"COCO_val2014_{number % 2_000:012d}.jpg" for number in range(20_000)))
    started = time.monotonic()
    assert len(with_photos(wanted, tmp_path)[0]) == 20_000
    assert time.monotonic() - started < 10
