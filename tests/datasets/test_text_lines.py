import pytest

from capdec.datasets.text_lines import TextLines
from capdec.errors import DataError


def captions(path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return [caption for example in TextLines(path) for caption in example.captions]


def test_each_line_that_is_not_blank_is_a_caption(tmp_path):
    assert captions(tmp_path / "c.txt", b"a dog\r\n\n  two  cats \n\t\nlast, without an end") == ["a dog", "two cats", "last, without an end"]


def test_a_byte_order_mark_is_no_part_of_the_first_caption(tmp_path):
    assert captions(tmp_path / "c.txt", "\ufeffein Hündchen\n".encode()) == ["ein Hündchen"]


def test_reading_twice_gives_the_same_and_no_image(tmp_path):
    dataset = TextLines.tiny(tmp_path)
    assert list(dataset) == list(dataset) and len(list(dataset)) == 2
    assert all(example.open_image is None and example.sources is None for example in dataset)


def test_bad_utf8_is_named_by_its_line(tmp_path):
    with pytest.raises(DataError, match=r"c\.txt:2 is not UTF-8"):
        captions(tmp_path / "c.txt", "a dog\nein Hündchen\n".encode("latin-1"))


def test_a_file_without_captions_or_no_file_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no captions"):
        captions(tmp_path / "c.txt", b"\n \n")
    for nowhere in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            list(TextLines(nowhere))


def test_it_is_recognised_by_its_suffix():
    assert TextLines.recognises("captions.TXT") and not TextLines.recognises("captions.jsonl")
