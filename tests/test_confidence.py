import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from capdec import confidence
from capdec.confidence import FILE, Confidence, Signal, agreement, things
from capdec.errors import DataError
from capdec.protocols import Caption, Decoding

MADE = Confidence({"score": Signal(-1.0, 0.5, 1.2), "things": Signal(2.0, 1.0, -0.7)}, -0.3, 0.4, Decoding(candidates=5, rerank="clip"))


@pytest.fixture
def told():
    """500 confidences, and what came true of them as often as they say."""
    generator = np.random.default_rng(0)
    sure = generator.random(500).round(2)
    return sure, generator.random(500) < sure


def test_confidence_is_the_logistic_function_of_the_weighed_signals():
    found = {"score": np.array([-1.0, -0.5]), "things": np.array([2.0, 3.0]), "cosine": np.array([0.1, 0.9])}
    assert MADE.of(found) == pytest.approx([1 / (1 + np.exp(0.3)), 1 / (1 + np.exp(0.3 - 1.2 + 0.7))])
    captions = MADE.judged([Caption("a dog", -1.0), Caption("a cat", -0.5)], {**found, "things": np.array([2.0, 9.0])})
    assert [caption.unsure for caption in captions] == [False, True] and captions[0].confidence == pytest.approx(0.4256, abs=1e-4)


def test_it_suits_the_decoding_it_was_calibrated_for_with_more_alternatives_too_and_no_other():
    assert MADE.suits(MADE.decoding) and MADE.suits(replace(MADE.decoding, captions=3))
    for other in ({"beams": 6}, {"captions": 6, "beams": 6}, {"length_penalty": 0.5}, {"strategy": "nucleus"}, {"candidates": 4}):
        assert not MADE.suits(replace(MADE.decoding, **other))
    by_score = replace(MADE, decoding=Decoding())
    assert by_score.suits(Decoding(captions=3)), "the best of the beams is the best, however many are shown"
    assert not replace(MADE, decoding=Decoding("nucleus")).suits(Decoding("nucleus", captions=3)), "the best of three draws is another"
    assert not by_score.suits(Decoding(captions=3), drawn=True) and by_score.suits(Decoding(seed=3), drawn=True), "and so where a bridge draws"


def test_its_file_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path):
    assert Confidence.read(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps(MADE.as_json()))
    assert Confidence.read(tmp_path) == MADE
    of, signal = MADE.as_json(), {"mean": 0, "deviation": 1, "weight": 1}
    tables = ({"calibration": None}, {"signals": {"mood": signal}}, {"signals": {"score": {**signal, "deviation": 0}}})
    damaged = [json.dumps({**of, **table}) for table in tables]
    for wrong in ("{", "[]", json.dumps({**MADE.as_json(), "format_version": 9}), json.dumps({**MADE.as_json(), "signals": {"score": 3}}), *damaged):
        (tmp_path / FILE).write_text(wrong)
        with pytest.raises(DataError, match="Calibrate again"):
            Confidence.read(tmp_path)


def test_agreement_is_the_share_of_other_captions_that_name_each_thing():
    said = [things("A dog on a beach"), things("A man sits"), things("It runs")]
    others = [["a dog runs", "a dog on a beach", "two cats", "the beach"], ["a person", "people"], ["a dog", "a cat"]]
    assert agreement(said, others).tolist() == [0.5, 1.0, 1.0]


def test_auroc_and_brier_are_those_of_scikit_learn(told):
    sure, right = told
    assert confidence.auroc(sure, right) == pytest.approx(roc_auc_score(right, sure))
    assert confidence.brier(sure, right) == pytest.approx(brier_score_loss(right, sure))
    with warnings.catch_warnings(action="error"):
        assert np.isnan(confidence.auroc(sure, np.ones(500, bool)))


def test_confidences_that_come_true_are_calibrated_and_others_are_not(told):
    sure, right = told
    assert confidence.calibration_error(sure, right) < 0.06 < 0.2 < confidence.calibration_error(sure**4, right)
    assert sum(count for _, _, count in confidence.reliability(sure, right)) == 500


def test_area_under_risk_of_a_worked_example():
    right = np.array([True, False, True, False])
    assert confidence.right_among_surest(np.array([0.9, 0.8, 0.7, 0.6]), right).tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert confidence.area_under_risk(np.array([0.9, 0.8, 0.7, 0.6]), right) == pytest.approx(1 - (1 + 1 / 2 + 2 / 3 + 1 / 2) / 4)


def test_captions_equally_sure_count_alike_whatever_their_order():
    for right in ([True, True, False, False], [False, False, True, True]):
        assert confidence.right_among_surest(np.full(4, 0.5), np.array(right)).tolist() == [0.5] * 4
        assert confidence.area_under_risk(np.full(4, 0.5), np.array(right)) == 0.5
