import shutil
import subprocess

import numpy as np
import pytest

from capdec.language import tokenizer
from capdec.metrics.meteor import Meteor, _jar, _line, meteor
from capdec.protocols import Predictions

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR's program runs on Java")
CAPTIONS = {"1": "A man rides a horse.", "2": "a dog that is running over the grass", "3": "seven", "4": "Two kids play football", "5": ""}
REFERENCES = {
    "1": ["A man rides a horse.", "Someone on a horse"],  # the same words: no penalty for order
    "2": ["The dogs run over a lawn", "dogs running"],
    "3": ["people in a room"],
    "4": ["Two children are playing soccer", "football is played by two children"],
    "5": ["a room", "rooms"],
}


@needs_java
def test_every_image_and_the_set_get_the_figures_of_the_program_itself():
    reference = pytest.importorskip("pycocoevalcap.meteor.meteor").Meteor()
    from capdec.ptb import tokenize

    meant = {key: [tokenize(text) for text in texts] for key, texts in REFERENCES.items()}
    value, each = reference.compute_score(meant, {key: [tokenize(text)] for key, text in CAPTIONS.items()})
    found = Meteor().score(Predictions(CAPTIONS, REFERENCES))["METEOR"]
    assert found.value == pytest.approx(100 * value, abs=1e-9)
    np.testing.assert_allclose(found.each, 100 * np.array(each), atol=1e-9)


def test_without_java_it_is_not_computed_and_never_nothing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = Meteor().score(Predictions(CAPTIONS, REFERENCES))["METEOR"]
    assert found.value is None and "not computed" in found.note and "java" in found.note


def test_no_match_at_all_is_zero():
    assert meteor(np.zeros((1, 23)))[0] == 0


GERMAN = {"1": "Ein Hündchen läuft über die Wiese.", "2": "zwei Männer spielen", "3": "Ein Hund", "4": ""}
GERMAN_REFERENCES = {
    "1": ["Die Hündchen laufen über eine Wiese", "Hunde im Gras"],
    "2": ["Ein Mann spielt in der Straße", "Männer, die spielen"],
    "3": ["Ein Hund!"],
    "4": ["ein Zimmer"],
}


@needs_java
def test_german_figures_are_those_of_the_program_with_its_german_parameters():
    found = Meteor("de").score(Predictions(GERMAN, GERMAN_REFERENCES))["METEOR"]
    jar, said = _jar(), tokenizer("de")
    if (jar.parent / "data/paraphrase-de.gz").is_file():
        pytest.skip("the German paraphrases are there")
    assert "exact and stem" in found.note
    command = ["java", "-jar", jar.name, "-", "-", "-stdio", "-l", "de", "-m", "exact stem", "-norm"]
    lines = [_line(said(text), [said(one) for one in GERMAN_REFERENCES[key]]) for key, text in GERMAN.items()]
    counts = subprocess.run(command, cwd=jar.parent, input="".join(lines).encode(), capture_output=True).stdout.decode()
    asked = " ||| ".join(["EVAL", *counts.splitlines()]) + "\n"
    *each, whole = map(float, subprocess.run(command, cwd=jar.parent, input=asked.encode(), capture_output=True).stdout.split())
    assert found.value == pytest.approx(100 * whole, abs=1e-9) and whole > 0.1
    np.testing.assert_allclose(found.each, 100 * np.array(each), atol=1e-9)


def test_other_languages_have_no_parameters_here():
    assert "'fr'" in Meteor("fr").score(Predictions(CAPTIONS, REFERENCES))["METEOR"].note
