import contextlib
import io

import numpy as np
import pytest

from capdec.metrics.coco_scores import CocoScores
from capdec.protocols import Predictions

CAPTIONS = {"1": "A man rides a horse.", "2": "Two dogs, running over green grass", "3": "a red car", "4": ""}
REFERENCES = {
    "1": ["A man is riding a horse on the beach.", "Someone rides a brown horse"],
    "2": ["Two dogs run over the grass.", "dogs playing on a lawn", "Two dogs are running on green grass!"],
    "3": ["A red car parked on the street"],
    "4": ["people in a room", "a room"],
}


def test_the_figures_are_those_of_the_reference_implementation_behind_the_same_tokens():
    bleu, rouge = (pytest.importorskip(f"pycocoevalcap.{name}") for name in ("bleu.bleu", "rouge.rouge"))
    from pycocoevalcap.cider.cider import Cider

    from capdec.ptb import tokenize

    said = {key: [tokenize(text)] for key, text in CAPTIONS.items()}
    meant = {key: [tokenize(text) for text in texts] for key, texts in REFERENCES.items()}
    found = CocoScores().score(Predictions(CAPTIONS, REFERENCES))
    with contextlib.redirect_stdout(io.StringIO()):
        values, each = bleu.Bleu(4).compute_score(meant, said, verbose=0)
    for n in range(4):
        assert found[f"BLEU-{n + 1}"].value == pytest.approx(100 * values[n], abs=1e-9)
        np.testing.assert_allclose(found[f"BLEU-{n + 1}"].each, 100 * np.array(each[n]), atol=1e-9)
    for name, scorer in (("ROUGE-L", rouge.Rouge()), ("CIDEr", Cider())):
        value, numbers = scorer.compute_score(meant, said)
        assert found[name].value == pytest.approx(100 * value, abs=1e-9)
        np.testing.assert_allclose(found[name].each, 100 * numbers, atol=1e-9)


def test_a_caption_equal_to_all_its_references_scores_full_marks_and_unrelated_words_none():
    references = {"1": ["a man rides a horse on the beach"] * 2, "2": ["two dogs run over green grass together"] * 2}
    right = CocoScores().score(Predictions({"1": "A man rides a horse on the beach.", "2": "Two dogs run over green grass, together"}, references))
    assert right["BLEU-4"].value == pytest.approx(100, abs=0.01) and right["ROUGE-L"].value == pytest.approx(100)
    assert right["CIDEr"].value == pytest.approx(1000)
    wrong = CocoScores().score(Predictions({"1": "blue", "2": "seven"}, references))
    assert all(one.value == pytest.approx(0, abs=1e-6) for one in wrong.values())


def test_no_java_is_needed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert CocoScores().score(Predictions(CAPTIONS, REFERENCES))["CIDEr"].value > 0


def test_german_captions_are_compared_by_german_tokens():
    references = {
        "1": ["Ein Mädchen im weiß-blauen T-Shirt springt 2,5 m weit.", "ein Kind springt"],
        "2": ["Zwei Hunde (groß) kämpfen auf der Wiese"],
    }
    captions = {"1": "ein mädchen im weiß-blauen t-shirt springt 2,5 m weit", "2": "„Zwei Hunde“, groß, kämpfen auf der Wiese!"}
    found = CocoScores("de").score(Predictions(captions, references))
    assert found["BLEU-4"].value == pytest.approx(100, abs=0.01) and found["ROUGE-L"].value == pytest.approx(100)
