import json

import pytest

from capdec.corpus import open_dataset
from capdec.errors import MismatchError
from capdec.score import score

METRICS = ("coco_scores", "diversity")


@pytest.fixture
def references(tmp_path):
    path = tmp_path / "references.jsonl"
    rows = [{"image_id": n, "captions": [f"a man with {n} dogs", "dogs and a man"]} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_dataset({"path": str(path), "dataset": "tiny", "split": "val"})


def predictions(tmp_path, ids):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([{"image_id": n, "caption": f"a man with {n} dogs"} for n in ids]))
    return path


def test_captions_of_any_system_are_scored_against_references(tmp_path, references):
    found = score(predictions(tmp_path, [3, 1, 4, 0, 2]), references, metrics=METRICS)
    assert (found["n"], found["left_out"], found["dataset"], found["split"]) == (5, 0, "tiny", "val")
    one = found["figures"]["CIDEr"]
    assert one["low"] <= one["value"] <= one["high"] and one["value"] > 100


def test_a_part_of_the_split_is_refused_unless_told_so(tmp_path, references):
    some = predictions(tmp_path, [3, 1])
    with pytest.raises(MismatchError, match=r"no caption for 3 images \(0, 2, 4\).*--partial"):
        score(some, references, metrics=METRICS)
    found = score(some, references, metrics=METRICS, partial=True)
    assert (found["n"], found["left_out"]) == (2, 3)


def test_an_image_without_references_is_refused_even_so(tmp_path, references):
    with pytest.raises(MismatchError, match=r"no references for 1 images \(9\)"):
        score(predictions(tmp_path, [0, 1, 2, 3, 4, 9]), references, metrics=METRICS, partial=True)
