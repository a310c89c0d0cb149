import pytest

from capdec.metrics.unseen_nouns import UnseenNouns
from capdec.protocols import Predictions


def unseen(caption, *references):
    return UnseenNouns().score(Predictions({"1": caption}, {"1": references}))["unseen nouns"].value


def test_things_that_no_reference_names_are_counted():
    assert unseen("A dog and a horse on the beach", "two dogs", "the shore") == pytest.approx(100 / 3)
    assert unseen("dogs", "a puppy") == 0 and unseen("running fast", "a dog") == 0


def test_a_person_is_every_man_and_every_man_a_person():
    assert unseen("a man", "people") == 0 and unseen("a person", "a woman") == 0 and unseen("a man", "a woman") == 100


def test_the_set_counts_nouns_and_captions():
    found = UnseenNouns().score(Predictions({"1": "a dog", "2": "a cat with a ball and a hat"}, {"1": ["a dog"], "2": ["a cat"]}))
    assert found["unseen nouns"].value == pytest.approx(50) and found["captions with unseen nouns"].value == pytest.approx(50)


def test_in_another_language_they_are_not_counted():
    found = UnseenNouns("de").score(Predictions({"1": "Ein Hund"}, {"1": ["Ein Hund"]}))
    assert all(one.value is None and "English" in one.note for one in found.values())
