import pytest

from capdec import scoring
from capdec.errors import DataError
from capdec.metrics.style import Style
from capdec.protocols import Predictions


def test_a_style_is_told_from_plain_captions(tmp_path):
    found = Style.tiny(tmp_path).score(Predictions({"1": "two in love", "2": "a dog jumps"}, {"1": ["x"], "2": ["x"]}))["in style"]
    assert found.each.tolist() == [100, 0] and "100.0 %" in found.note


def test_files_of_texts_are_named_in_a_recipe(tmp_path):
    (tmp_path / "style.txt").write_text("\n".join(f"{n} hearts in love" for n in range(40)))
    (tmp_path / "plain.txt").write_text("\n".join(f"a dog runs {n}" for n in range(40)))
    (metric,) = scoring.build([{"name": "style", "style": str(tmp_path / "style.txt"), "plain": str(tmp_path / "plain.txt")}], None)
    assert metric.score(Predictions({"1": "hearts"}, {"1": ["x"]}))["in style"].value == 100


def test_too_few_texts_are_refused():
    with pytest.raises(DataError, match="3 and 30"):
        Style(["a"] * 3, ["b"] * 30)
