"""The search over tables of next-token probabilities made by hand, small enough that every sequence can be tried."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from capdec.errors import SettingError
from capdec.generation import Found, search
from capdec.protocols import Decoding

END = 1


class Table:
    """A stepper whose next-token probabilities are any function of (image, tokens so far)."""

    def __init__(self, images, probabilities):
        self.rows, self.probabilities = [(image, ()) for image in range(images)], probabilities

    def begin(self):
        return self._logits()

    def advance(self, parents, tokens):
        before = self.rows
        self.rows = [(before[p][0], (*before[p][1], t)) for p, t in zip(parents.flatten().tolist(), tokens.flatten().tolist(), strict=True)]
        return self._logits()

    def _logits(self):
        return torch.tensor(np.log(np.stack([self.probabilities(*row) for row in self.rows])), dtype=torch.float32)


def random_language(vocabulary, seed=0, sharpness=1.5):
    """Every (image, tokens so far) has a distribution of its own, so that no shortcut finds the best sequence."""

    def probabilities(image, tokens):
        weights = np.exp(sharpness * np.random.default_rng([seed, image, len(tokens), *tokens]).normal(size=vocabulary))
        return weights / weights.sum()

    return probabilities


def log_probability(probabilities, image, tokens, ended):
    told = [*tokens, END] if ended else tokens
    return sum(float(np.log(probabilities(image, tuple(told[:place]))[token])) for place, token in enumerate(told))


def every_sequence(probabilities, image, vocabulary, max_tokens, length_penalty):
    """All sequences that end within max_tokens or are cut there, best first."""
    words = [token for token in range(vocabulary) if token != END]
    found = []
    for length in range(max_tokens + 1):
        for tokens in itertools.product(words, repeat=length):
            ended = length < max_tokens
            told = min(length + 1, max_tokens)
            found.append(Found(tokens, log_probability(probabilities, image, tokens, ended) / told**length_penalty))
    return sorted(found, key=lambda one: -one.score)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0, -1.0])
def test_a_beam_that_holds_every_sequence_finds_the_best_ones(length_penalty):
    probabilities = random_language(4)
    found = search(Table(3, probabilities), Decoding(beams=4**4, captions=5, max_tokens=4, length_penalty=length_penalty), END)
    for image, best in enumerate(found):
        wanted = every_sequence(probabilities, image, 4, 4, length_penalty)[:5]
        assert [one.tokens for one in best] == [one.tokens for one in wanted]
        assert [one.score for one in best] == pytest.approx([one.score for one in wanted], abs=1e-5)


@pytest.mark.parametrize("beams", [1, 2, 3, 7])
def test_the_score_of_a_beam_is_the_log_probability_of_its_tokens(beams):
    probabilities = random_language(6, seed=1)
    for image, found in enumerate(search(Table(5, probabilities), Decoding(beams=beams, captions=beams, max_tokens=5, length_penalty=0.6), END)):
        assert len({one.tokens for one in found}) == beams
        for one in found:
            total = log_probability(probabilities, image, one.tokens, ended=len(one.tokens) < 5)
            assert one.score == pytest.approx(total / min(len(one.tokens) + 1, 5) ** 0.6, abs=1e-5)


@pytest.mark.parametrize("decoding", [Decoding("greedy", max_tokens=6), Decoding("beam", beams=1, max_tokens=6)])
def test_greedy_search_and_a_single_beam_take_the_likeliest_token_each_time(decoding):
    probabilities = random_language(5, seed=2)
    for image, (found,) in enumerate(search(Table(20, probabilities), decoding, END)):
        tokens = []
        while len(tokens) < 6 and (likeliest := int(probabilities(image, tuple(tokens)).argmax())) != END:
            tokens.append(likeliest)
        assert found.tokens == tuple(tokens)


def test_an_image_is_searched_as_if_it_were_alone():
    probabilities = random_language(6, seed=3)
    for decoding in (Decoding(beams=3, captions=3, max_tokens=8), Decoding("greedy", max_tokens=8), Decoding("nucleus", captions=4, max_tokens=8)):
        together = search(Table(9, probabilities), decoding, END)
        assert len({len(one.tokens) for found in together for one in found}) > 2, "images end at different times"
        for image, found in enumerate(together):
            (alone,) = search(Table(1, lambda _, tokens, image=image: probabilities(image, tokens)), replace(decoding, seed=image), END)
            assert [one.tokens for one in alone] == [one.tokens for one in found]


def test_nucleus_draws_follow_the_truncated_distribution_and_never_leave_it():
    first = np.array([0.02, 0.08, 0.3, 0.2, 0.1, 0.25, 0.05])  # the likeliest that together reach 0.7: tokens 2, 5, 3
    second = np.array([0.1, 0.65, 0.05, 0.04, 0.06, 0.06, 0.04])  # tokens 1 (the end) and 0
    table = Table(2, lambda image, tokens: second if tokens else first)
    count = 4000
    found = search(table, Decoding("nucleus", captions=count, max_tokens=2, top_p=0.7), END)
    for image in found:
        said = [one.tokens for one in image]
        assert {tokens[0] for tokens in said} == {2, 5, 3} and {tokens[1:] for tokens in said} == {(), (0,)}
        for token, share in ((2, 0.3 / 0.75), (5, 0.25 / 0.75), (3, 0.2 / 0.75)):
            drawn = [tokens for tokens in said if tokens[0] == token]
            assert abs(len(drawn) - count * share) < 4 * (count * share * (1 - share)) ** 0.5
            ends, sure = sum(len(tokens) == 1 for tokens in drawn), 0.65 / 0.75
            assert abs(ends - len(drawn) * sure) < 4 * (len(drawn) * sure * (1 - sure)) ** 0.5
    assert [one.tokens for one in found[0]] != [one.tokens for one in found[1]], "two images draw differently"


def test_the_whole_nucleus_is_the_distribution_and_temperature_bends_it():
    plain = np.array([0.4, 0.1, 0.3, 0.2])
    count = 4000
    for temperature in (1.0, 0.5, 2.0):
        wanted = plain ** (1 / temperature) / (plain ** (1 / temperature)).sum()
        decoding = Decoding("nucleus", captions=count, max_tokens=1, top_p=1.0, temperature=temperature)
        (found,) = search(Table(1, lambda image, tokens: plain), decoding, END)
        drawn = np.bincount([one.tokens[0] if one.tokens else END for one in found], minlength=4)
        chi_square = ((drawn - count * wanted) ** 2 / (count * wanted)).sum()
        assert chi_square < 16.3, "three degrees of freedom pass this one time in a thousand"
        assert {round(one.score, 4) for one in found} == {round(float(np.log(p)), 4) for p in plain}, "scores are at temperature 1"


def test_a_narrow_nucleus_is_greedy_search():
    probabilities = random_language(5, seed=4)
    narrow = search(Table(10, probabilities), Decoding("nucleus", top_p=1e-6, max_tokens=6), END)
    assert narrow == search(Table(10, probabilities), Decoding("greedy", max_tokens=6), END)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["beam", "greedy", "nucleus"])
def test_no_ngram_is_said_twice(strategy, size):
    def monotonous(image, tokens):  # its last word again, or word 2: without the ban nothing else would be said
        weights = np.full(8, 0.01)
        weights[[2, tokens[-1] if tokens else image + 2]] += 1
        weights[END] = 1e-6
        return weights / weights.sum()

    def repeats(tokens):
        windows = [tokens[i : i + size] for i in range(len(tokens) - size + 1)]
        return len(windows) - len(set(windows))

    decoding = Decoding(strategy, beams=3, max_tokens=7)
    free = search(Table(4, monotonous), decoding, END)
    banned = search(Table(4, monotonous), replace(decoding, no_repeat_ngram_size=size), END)
    assert any(repeats(found[0].tokens) for found in free)
    assert not any(repeats(found[0].tokens) for found in banned)
    assert all(len(found[0].tokens) > size for found in banned)


def test_a_ban_leaves_the_first_occurrence_alone():
    """a b a _: after the second a, b is banned and everything else keeps its place."""
    a, b, c = 2, 3, 4
    script = {(): a, (a,): b, (a, b): a, (a, b, a): b}

    def probabilities(image, tokens):
        weights = np.full(5, 0.01)
        weights[c] = 0.1
        weights[script.get(tokens, END)] += 1
        return weights / weights.sum()

    assert search(Table(1, probabilities), Decoding("greedy", no_repeat_ngram_size=2), END)[0][0].tokens == (a, b, a, c)


def test_a_caption_may_be_empty():
    sure = np.array([0.05, 0.9, 0.05])
    for strategy in ("beam", "greedy"):
        ((found,),) = search(Table(1, lambda image, tokens: sure), Decoding(strategy, beams=2, max_tokens=4), END)
        assert found.tokens == () and found.score == pytest.approx(np.log(0.9))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"beams": 0}, "beams"),
        ({"captions": 0}, "captions"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"beams": 2, "captions": 3}, "as many beams"),
        ({"strategy": "greedy", "captions": 2}, "'beam' or 'nucleus'"),
        ({"strategy": "nucleus", "top_p": 0.0}, "top_p"),
        ({"strategy": "nucleus", "top_p": 1.1}, "top_p"),
        ({"strategy": "nucleus", "temperature": 0.0}, "temperature"),
    ],
)
def test_a_decoding_that_cannot_be_is_an_error_that_says_what_would_do(wrong, message):
    with pytest.raises(SettingError, match=message):
        search(Table(1, random_language(4)), replace(Decoding(), **wrong), END)


def test_an_unknown_strategy_is_an_error_that_shows_the_choices():
    decoding = Decoding()
    object.__setattr__(decoding, "strategy", "dream")  # the tests' own type checks would refuse Decoding("dream")
    with pytest.raises(SettingError, match="beam, greedy, nucleus"):
        search(Table(1, random_language(4)), decoding, END)
