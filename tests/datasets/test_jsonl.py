import json

import pytest
from PIL import Image

from capdec.datasets.jsonl import JSONL
from capdec.errors import DataError
from capdec.protocols import Example


def read(path, *rows, **settings) -> list[Example]:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return list(JSONL(path, **settings))


def test_captions_come_under_several_names(tmp_path):
    rows = [{"image_id": 7, "captions": ["a  dog ", "a hound"]}, {"caption": "a cat"}, {"text": ["a bird"], "image_id": "x"}]
    assert read(tmp_path / "c.jsonl", *rows) == [Example(("a dog", "a hound"), "7"), Example(("a cat",)), Example(("a bird",), "x")]


def test_a_source_and_a_target_are_kept_apart_and_together(tmp_path):
    rows = [
        {"image_id": "1", "source": "a dog runs", "target": "joy on four legs"},
        {"source": ["a dog", "", "a cat"], "target": ["ein Hund", "nichts", "eine Katze"]},
    ]
    assert read(tmp_path / "c.jsonl", *rows) == [
        Example(("joy on four legs",), "1", sources=("a dog runs",)),
        Example(("ein Hund", "eine Katze"), sources=("a dog", "a cat")),
    ]


def test_blank_lines_and_blank_captions_are_skipped(tmp_path):
    assert read(tmp_path / "c.jsonl", "", {"caption": " "}, {"caption": None}, {"captions": []}, {"captions": ["", "a dog"]}, " ") == [
        Example(("a dog",))
    ]


def test_a_byte_order_mark_is_allowed(tmp_path):
    assert read(tmp_path / "c.jsonl", '\ufeff{"caption": "a dog"}') == [Example(("a dog",))]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "Expecting"),
        ("[1, 2]", "not a JSON object"),
        ('{"words": "a dog"}', "no captions, caption or text, but only words"),
        ("{}", "but only nothing"),
        ('{"caption": 3}', "its caption is neither"),
        ('{"captions": ["a", 3]}', "its captions is neither"),
        ('{"source": "a dog"}', "no target beside its source"),
        ('{"target": "a dog"}', "no source beside its target"),
        ('{"source": ["a", "b"], "target": "c"}', "2 sources for 1 targets"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, said):
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / "c.jsonl", {"caption": "a dog"}, line)
    assert "c.jsonl:2 cannot be used" in str(caught.value)


def test_bad_utf8_is_named_by_its_line(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(b'{"caption": "a dog"}\n{"caption": "H\xfcndchen"}\n')
    with pytest.raises(DataError, match=r"c\.jsonl:2"):
        list(JSONL(tmp_path / "c.jsonl"))


def test_a_file_without_captions_or_no_file_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no captions"):
        read(tmp_path / "c.jsonl", {"caption": ""})
    with pytest.raises(DataError, match="cannot be read"):
        list(JSONL(tmp_path / "none.jsonl"))


def test_reading_twice_gives_the_same(tmp_path):
    dataset = JSONL.tiny(tmp_path)
    assert list(dataset) == list(dataset) and len(list(dataset)) == 2
    assert JSONL.recognises(dataset.path) and not JSONL.recognises("captions.json")


def test_photos_are_found_by_image_file_name_or_image_id(tmp_path):
    for name, colour in {"7.jpg": "red", "8.png": "blue", "2448270671_5e0e391a80.jpg": "white", "a/9.png": "green"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), colour).save(tmp_path / name)
    rows = [
        {"image": "7.jpg", "caption": "a red wall"},
        {"file_name": "a/9.png", "image_id": 7, "caption": "a green wall"},
        {"image_id": 8, "caption": "a blue wall"},
        {"image_id": "2448270671", "caption": "a white wall"},
        {"image_id": "9", "caption": " "},
    ]
    examples = read(tmp_path / "c.jsonl", *rows, images=tmp_path)
    assert [example.image_id for example in examples] == [None, "7", "8", "2448270671"]
    assert [example.open_image().size for example in examples] == [(8, 6)] * 4
    assert examples[1].open_image().getpixel((0, 0)) == (0, 128, 0)


def test_photos_that_are_missing_are_left_out_only_if_asked(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "7.png")
    rows = [{"image_id": 7, "caption": "a wall"}, {"image_id": 8, "caption": "a wall"}, {"caption": "a wall"}]
    with pytest.raises(DataError, match=r"2 of 3 photos are missing: 8, a photo without a name"):
        read(tmp_path / "c.jsonl", *rows, images=tmp_path)
    dataset = JSONL(tmp_path / "c.jsonl", tmp_path, dataset="flickr30k+flickr8k", split="val", partial=True)
    assert [example.image_id for example in dataset] == [example.image_id for example in dataset] == ["7"]
    assert (dataset.left_out, dataset.name, dataset.split) == (2, "flickr30k+flickr8k", "val")
