from capdec.nouns import IRREGULAR, lexicon, noun, nouns


def test_plurals_and_synonyms_are_one_thing():
    assert nouns(["two", "guys", "and", "a", "man", "with", "dogs", ",", "puppies", "and", "ladies"]) == ["man", "dog", "woman"]
    assert [noun(word) for word in ("children", "beaches", "boxes", "glasses", "bus", "grass")] == [
        "child", "beach", "box", "sunglasses", "bus", "grass",
    ]  # fmt: skip


def test_what_is_no_thing_is_passed_over():
    assert nouns(["running", "quickly", "over", "the", "very", "green", "and", "blue", ",", "of", "s", "es"]) == []


def test_the_lexicon_is_singular_lower_case_and_each_word_is_in_one_place():
    known = lexicon()
    assert len(known) > 1000 and all(word == word.lower().strip() for word in known)
    assert not set(IRREGULAR) & set(known)
    assert all(known[first] == first for first in known.values())
