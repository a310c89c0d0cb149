import pytest

from capdec.metrics.diversity import Diversity
from capdec.protocols import Predictions

CAPTIONS = {"1": "A dog runs.", "2": "a dog runs", "3": "two cats"}
REFERENCES = {key: ["x"] for key in CAPTIONS}


def test_words_and_pairs_are_counted_over_the_set():
    found = Diversity().score(Predictions(CAPTIONS, REFERENCES, training_text=["A dog runs!", "cats"]))
    assert found["vocabulary"].value == 5 and found["length"].value == pytest.approx(8 / 3)
    assert found["distinct-1"].value == pytest.approx(100 * 5 / 8) and found["distinct-2"].value == pytest.approx(100 * 3 / 5)
    assert found["copied"].each.tolist() == [100, 100, 0]
    assert found["vocabulary"].statistics is None, "it has no interval"


def test_copies_are_unknown_without_the_text():
    assert Diversity().score(Predictions(CAPTIONS, REFERENCES))["copied"].value is None


def test_empty_captions_are_no_error():
    found = Diversity().score(Predictions({"1": ""}, {"1": ["x"]}))
    assert found["distinct-2"].value == 0 and found["length"].value == 0
