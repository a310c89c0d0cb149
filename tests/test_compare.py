import json

import numpy as np
import pytest

from capdec.compare import compare
from capdec.errors import DataError, MismatchError


@pytest.fixture
def evaluation(tmp_path):
    """A folder as `capdec evaluate` writes it: every `wrong`-th caption is not the reference's."""

    def write(name, wrong, images=60, judge=None):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for n in range(images):
            reference = f"a dog number {n} runs on the grass of field {n % 7}"
            figures = {"CLIPScore": judge[n]} if judge is not None else {}
            said = reference if n % wrong else "a cat"
            rows.append({"image_id": str(n), "caption": said, "references": [reference, "a dog runs"], "figures": {"BLEU-4": 1.0, **figures}})
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


def test_the_better_side_is_better_by_an_interval_that_excludes_zero(evaluation):
    found = compare([evaluation("good", 20)], [evaluation("bad", 2)])
    for name in ("CIDEr", "BLEU-4", "ROUGE-L"):
        one = found[name]
        assert one["difference"] == pytest.approx(one["first"] - one["second"], abs=0.002)
        assert 0 < one["low"] < one["difference"] < one["high"] and one["p"] < 0.01


def test_figures_of_the_judge_come_from_the_files(evaluation):
    ours, theirs = (np.arange(60.0), np.arange(60.0) - 1)
    found = compare([evaluation("a", 20, judge=ours)], [evaluation("b", 2, judge=theirs)])["CLIPScore"]
    assert (found["difference"], found["low"], found["high"]) == (1, 1, 1)


def test_a_share_of_all_words_is_not_taken_for_a_mean_over_images(evaluation):
    folders = [evaluation("a", 20), evaluation("b", 2)]
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        rows = [{**row, "figures": {**row["figures"], "casing": 50.0}} for row in rows]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "casing" not in compare(folders[:1], folders[1:])
    assert compare(folders[:1], folders[1:], metrics=("casing",))["casing"]["first"] == 100


def test_what_different_judges_said_is_not_compared(evaluation):
    ours, theirs = evaluation("a", 20, judge=np.arange(60.0)), evaluation("b", 2, judge=np.arange(60.0))
    for folder, judge in ((ours, "mini-1"), (theirs, "mini-2")):
        (folder / "scores.json").write_text(json.dumps({"systems": {"itself": {"CLIPScore": {"value": 1, "note": f"by {judge}"}}}}))
    with pytest.warns(UserWarning, match="CLIPScore: left out, for different judges"):
        assert "CLIPScore" not in compare([ours], [theirs])
    (theirs / "scores.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        compare([ours], [theirs])


def test_several_runs_of_a_side_count_by_their_mean(evaluation):
    good, bad, worse = evaluation("good", 20), evaluation("bad", 3), evaluation("worse", 2)
    found = compare([good], [bad, worse])["CIDEr"]
    each = [compare([good], [other])["CIDEr"]["difference"] for other in (bad, worse)]
    assert found["difference"] == pytest.approx(sum(each) / 2, abs=0.01)


def test_evaluations_of_other_images_are_not_compared(evaluation, tmp_path):
    with pytest.raises(MismatchError, match="2 different sets"):
        compare([evaluation("a", 2)], [evaluation("b", 2, images=59)])
    with pytest.raises(DataError, match="capdec evaluate"):
        compare([tmp_path / "a"], [tmp_path])


def test_captions_in_different_languages_are_not_compared(evaluation):
    ours, theirs = evaluation("a", 2), evaluation("b", 3)
    (theirs / "scores.json").write_text(json.dumps({"language": "de", "systems": {"itself": {}}}))
    with pytest.raises(MismatchError, match=r"different languages \(de, en\)"):
        compare([ours], [theirs])
    assert compare([theirs], [theirs])["CIDEr"]["difference"] == 0
