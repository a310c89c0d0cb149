import numpy as np
import pytest

from capdec import scoring
from capdec.errors import SettingError
from capdec.metrics.gender_error import GenderError
from capdec.protocols import Predictions

WOMAN, MAN, EITHER = ["a woman runs", "a girl", "a person"], ["a man", "two boys", "a guy"], ["a man", "a woman", "a boy"]


def figures(*photos):
    captions = {str(n): caption for n, (caption, _) in enumerate(photos)}
    return GenderError().score(Predictions(captions, {str(n): references for n, (_, references) in enumerate(photos)}))


def test_an_error_is_the_other_gender_than_the_references_agree_on():
    found = figures(("a man", WOMAN), ("a lady", WOMAN), ("a boy", MAN), ("a person", MAN), ("a girl", EITHER), ("a dog", ["a dog"]))
    assert found["gender named"].value == 75 and found["gendered"].value == pytest.approx(100 * 4 / 6)
    assert found["gender error"].value == pytest.approx(100 / 3)
    assert found["gender error, women"].value == 50 and found["gender error, men"].value == 0


def test_one_reference_alone_a_dog_s_pronoun_or_both_genders_name_nobody():
    found = figures(("a man", ["a woman", "a person"]), ("a man", ["a dog and her ball", "a dog and her bone"]), ("a man and a woman", WOMAN))
    assert found["gender named"].value == 0 and found["gender error"].value is None and "no caption" in found["gender error"].note


def test_each_figure_is_made_again_from_its_statistics():
    found = figures(*[("a man", WOMAN), ("a woman", WOMAN), ("a woman", MAN), ("a man", MAN), ("a dog", ["a dog"])] * 3)
    for one in found.values():
        assert one.statistics is not None and one.value == pytest.approx(float(one.combine(one.statistics.sum(0, keepdims=True))[0]))
    ranges = scoring.as_json(found, 200)
    assert ranges["gender error"]["low"] < 50 < ranges["gender error"]["high"]
    assert np.isnan(found["gender error"].each).sum() == 0


def test_it_is_asked_for_by_name_and_knows_english_alone():
    assert "gender_error" not in scoring.METRICS and len(scoring.build(["gender_error"], None)) == 1
    with pytest.raises(SettingError, match="'de'"):
        scoring.build(["gender_error"], None, language="de")
