"""Against pycocoevalcap, whose figures the field reports."""

import numpy as np
import pytest

from capdec.cider import cider

WORDS = ["a", "man", "dog", "two", "dogs", "runs", "on", "the", "green", "grass", "with", "red", "ball", "jumps", "over", "water"]


def invented(images, seed=0):
    random = np.random.default_rng(seed)

    def text():
        return " ".join(random.choice(WORDS, size=random.integers(0, 14)))

    return [text() for _ in range(images)], [[text() for _ in range(random.integers(1, 6))] for _ in range(images)]


@pytest.mark.parametrize("seed", range(5))
def test_every_image_gets_the_figure_of_the_reference_implementation(seed):
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    captions, references = invented(60, seed)
    captions[3], captions[4], references[5] = references[3][0], "", [""]
    expected = scorer.compute_score(dict(enumerate(references)), {n: [text] for n, text in enumerate(captions)})[1]
    np.testing.assert_allclose(cider(captions, references), expected, rtol=0, atol=1e-9)


def test_a_caption_that_is_its_references_gets_ten_and_unknown_words_nothing():
    references = [["a man rides a horse on the beach"] * 3, ["two dogs run over green grass together"] * 2]
    assert cider([references[0][0], "blue seven"], references) == pytest.approx([10, 0])


def test_words_that_every_image_has_count_for_nothing():
    assert cider(["a dog", "a dog"], [["a dog"], ["a dog"]]) == pytest.approx([0, 0])


def test_nothing_but_empty_texts_is_no_error():
    assert cider(["", ""], [[""], ["", ""]]).tolist() == [0, 0]
