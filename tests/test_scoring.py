import json

import pytest

from capdec import scoring
from capdec.errors import DataError, MismatchError, UnknownPart
from capdec.protocols import Predictions, Score


@pytest.fixture
def write(tmp_path):
    def file(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return file


def test_predictions_are_read_from_cocos_result_format_and_from_json_lines(write):
    rows = [{"image_id": 9, "caption": "a dog"}, {"image_id": "x1", "caption": ""}]
    expected = {"9": "a dog", "x1": ""}
    assert scoring.read_predictions(write("results.json", rows)) == expected
    assert scoring.read_predictions(write("results.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            [{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}, {"image_id": "1", "caption": "c"}],
            r"several captions for 1 images \(1\)",
        ),
        ([{"image_id": 1, "text": "a"}], "It looks like"),
        ([{"image_id": 7, "caption": 3}], r"1 images \(7\) is no text"),
        ("not json", "holds no predictions"),
        ([], "empty"),
        ("", "empty"),
        ('{"image_id": 1, "caption": "a"}\n{"image_id": 2, "capt', r"p\.json, line 2 holds no predictions"),
        ([{"image_id": None, "caption": "a"}], r"caption 1 holds .*image_id is None"),
        ([{"image_id": 1.0, "caption": "a"}], r"image_id is 1\.0"),
        ("[" * 100_000, "RecursionError"),
    ],
)
def test_predictions_that_cannot_be_used_are_an_error_that_lists_what_is_wrong(write, content, said):
    with pytest.raises(DataError, match=said):
        scoring.read_predictions(write("p.json", content))
    with pytest.raises(DataError, match="cannot be read"):
        scoring.read_predictions("nowhere.json")


def test_a_line_ends_where_json_lines_end_and_not_at_every_separator(write):
    text = '{"image_id": 1, "caption": "one\u2028caption"}\n'
    assert scoring.read_predictions(write("p.jsonl", text)) == {"1": "one\u2028caption"}


def test_a_file_in_another_encoding_is_a_short_error(tmp_path):
    (tmp_path / "p.jsonl").write_bytes('{"image_id": 1, "caption": "Größe"}\n'.encode("latin-1") * 500)
    with pytest.raises(DataError, match="UnicodeDecodeError") as caught:
        scoring.read_predictions(tmp_path / "p.jsonl")
    assert len(str(caught.value)) < 500


def test_missing_and_unknown_images_are_listed():
    with pytest.raises(MismatchError, match=r"no caption for 12 images \(0, 1, .*, 11\); no references for 1 images \(x\)"):
        scoring.score([], Predictions({"x": "a"}, {str(n): ["b"] for n in range(12)}))
    with pytest.raises(MismatchError, match=r"no caption for 300 images \(0, 1, .*, 199, \.\.\.\)"):
        scoring.score([], Predictions({}, {str(n): ["b"] for n in range(300)}))


def test_references_need_ids_once_and_texts(write):
    from capdec.corpus import open_dataset

    twice = '{"image_id": 1, "captions": ["a"]}\n{"image_id": 1, "captions": ["b"]}\n'
    with pytest.raises(DataError, match=r"1 images \(1\) more than once"):
        scoring.read_references(open_dataset(str(write("twice.jsonl", twice))))
    with pytest.raises(DataError, match="lacks one"):
        scoring.read_references(open_dataset(str(write("no.jsonl", '{"captions": ["a"]}\n'))))


def test_what_was_not_computed_has_a_reason_and_no_number():
    found = scoring.as_json({"SPICE": Score.missing("no models"), "vocabulary": Score(12.0)})
    assert found == {"SPICE": {"value": None, "note": "not computed: no models"}, "vocabulary": {"value": 12.0}}


def test_a_metric_that_there_is_not_shows_the_choices():
    with pytest.raises(UnknownPart, match="coco_scores"):
        scoring.build(["bleurt"], None)


def test_a_splits_digest_is_of_its_content_and_not_its_order():
    first = {"1": ["a", "b"], "2": ["c"]}
    assert scoring.digest(first) == scoring.digest({"2": ("c",), "1": ("a", "b")}) != scoring.digest({"1": ["b", "a"], "2": ["c"]})
