import pytest

from capdec.metrics.casing import Casing
from capdec.protocols import Predictions

REFERENCES = {"1": ["Ein Hund läuft", "der Hund rennt", "ein hund"], "2": ["Ein Mann isst Essen", "Männer essen", "Leute essen"]}


def casing(*captions):
    return Casing().score(Predictions(dict(zip(REFERENCES, captions, strict=True)), REFERENCES))["casing"]


def test_a_word_is_right_as_the_references_write_it_most_often():
    found = casing("Ein Hund Läuft", "der mann isst")
    assert found.each.tolist() == pytest.approx([50, 50]) and found.value == pytest.approx(50)
    assert casing("Ein Hund läuft", "Der Mann isst essen").value == 100


def test_first_words_and_words_that_no_reference_has_are_not_counted():
    assert casing("hund", "Zebra ZEBRA Mann").statistics[:, 1].tolist() == [0, 1]


def test_where_no_word_counts_there_is_no_figure():
    assert casing("Hund", "Mann").value is None
