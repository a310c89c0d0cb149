import numpy as np
import pytest

from capdec.bootstrap import difference, intervals, mean_of_runs, resampled
from capdec.errors import MismatchError
from capdec.protocols import Score


def scores(seed=0, count=400, shift=0.0):
    return Score.mean_of(np.random.default_rng(seed).normal(shift, 1, count))


def test_the_interval_of_a_mean_is_the_normal_one():
    one = scores(count=2000)
    (low, high), each = intervals([one], resamples=4000)[0], one.each
    error = each.std() / np.sqrt(2000)
    assert low == pytest.approx(one.value - 1.96 * error, abs=0.2 * error) and high == pytest.approx(one.value + 1.96 * error, abs=0.2 * error)


def test_a_ratio_is_made_again_from_sums_and_not_from_ratios_of_images():
    counts = np.array([[1.0, 1.0], [0.0, 9.0]])
    assert Score.of(counts).value == 0.1
    assert set(np.round(resampled([Score.of(counts)], 200)[0], 6)) == {1.0, 0.1, 0.0}


def test_the_same_seed_gives_the_same_draws_and_all_figures_share_them():
    one = scores()
    first, second = resampled([one, Score.mean_of(2 * one.each)], 50, seed=3)
    np.testing.assert_allclose(second, 2 * first)
    np.testing.assert_allclose(first, resampled([one], 50, seed=3)[0], rtol=0, atol=1e-12)
    assert not np.array_equal(first, resampled([one], 50, seed=4)[0])


def test_a_paired_difference_is_surer_than_two_intervals():
    images = np.random.default_rng(1).normal(0, 10, 500)  # photos differ much more than the systems do
    a, b = Score.mean_of(images + 0.5 + scores(2, 500).each), Score.mean_of(images + scores(3, 500).each)
    found = difference([a], [b])
    assert found.low > 0 and found.p < 0.01
    (low_a, _), (_, high_b) = intervals([a, b])
    assert low_a < high_b, "apart, the intervals overlap"


def test_equal_systems_do_not_differ():
    a = scores()
    found = difference([a], [a])
    assert (found.value, found.low, found.high) == (0, 0, 0) and found.p == 1


def test_several_runs_widen_the_interval_by_how_far_they_lie_apart():
    close, far = [scores(0), scores(0)], [scores(0), Score.mean_of(scores(0).each + 1)]
    (_, near), (mean, wide) = mean_of_runs(close), mean_of_runs(far)
    assert mean == pytest.approx(scores(0).value + 0.5)
    assert wide.high - wide.low > 3 * (near.high - near.low)


def test_figures_of_other_images_are_refused():
    with pytest.raises(MismatchError, match=r"\[3, 4\]"):
        resampled([scores(count=3), scores(count=4)])
    with pytest.raises(MismatchError):
        resampled([scores(), Score(1.0)])


def test_many_images_are_drawn_in_parts():
    drawn = resampled([Score.mean_of(np.arange(5_000_000.0))], 4)[0]  # too many for one matrix
    assert drawn.shape == (4,) and abs(drawn - 2_499_999.5).max() < 5000 and len(set(drawn)) == 4
