"""Gendered words of English captions: found, made neutral, turned into their twins, or balanced.

    neutral     A man and his wife sit as he reads.   ->  A person and their spouse sit as they read.
    swap                                              ->  A woman and her husband sit as she reads.
    balanced    swapped or left, by a coin that depends on the seed and the text alone: whatever the text, a word and its twin are equally likely

Articles, verbs behind he and she, possessives and capitals agree with what is written; a text without gendered words comes back as it was.

What it does not know: grammar. `her` is "him" or "his" by the word behind it. Nor who is meant: a dog's `his` becomes "its" where nobody else is
named, and else is taken for somebody's; "a bearded man" becomes "a bearded woman". Names (Santa, Mr. Smith; the Beach Boys, by their capitals), a
snowman, and other languages than English are passed over.
"""

import hashlib
import itertools
import re
import tomllib
from bisect import bisect_left
from importlib import resources
from typing import Literal, NamedTuple

from capdec.errors import SettingError
from capdec.nouns import noun

MODES = ("neutral", "balanced", "swap")
Gender = Literal["man", "woman"]


class Word(NamedTuple):
    """What is known of a gendered word; `neutral` is singular. Of her and his these are what stands before a noun."""

    gender: Gender
    twin: str
    neutral: str
    plural: bool = False
    pronoun: bool = False


TABLE: dict[str, str] = tomllib.loads(resources.files("capdec").joinpath("gender.toml").read_text(encoding="utf-8"))
OBJECT, ROLES, HYPHENS, ADVERBS, NO_VERBS = (frozenset(TABLE[key].split()) for key in ("object", "roles", "hyphens", "adverbs", "no_verbs"))
ANIMALS, PEOPLE = frozenset(TABLE["animals"].split()), frozenset(TABLE["people"].split())
PRONOUNS = {
    "he": Word("man", "she", "they", pronoun=True), "she": Word("woman", "he", "they", pronoun=True),
    "him": Word("man", "her", "them", pronoun=True), "her": Word("woman", "his", "their", pronoun=True),
    "his": Word("man", "her", "their", pronoun=True), "hers": Word("woman", "his", "theirs", pronoun=True),
    "himself": Word("man", "herself", "themselves", pronoun=True), "herself": Word("woman", "himself", "themselves", pronoun=True),
}  # fmt: skip
ALONE = {"her": Word("woman", "him", "them", pronoun=True), "his": Word("man", "hers", "theirs", pronoun=True)}
"""Where no noun follows: "beside her", "a friend of his"."""

ITS = {"they": "it", "them": "it", "their": "its", "theirs": "its", "themselves": "itself"}

LEFT = re.compile(
    r"\bm[ae]n[ -](made|hole)|\bcow(boy|girl)s?\W(hat|boot|gear|outfit|costume|apparel|logo|brand|statue)|\b(king|queen)s?\W+(siz|bed\b)"
    r"|\blady\W?bugs?\b|\b(gingerbread|snow|stick|iron|spider|super|bat|pac|wonder)\W(wo)?m[ae]n\b"
    r"|\bmaids?\W+(of|in)\b|\b(meter|milk|old)\W+maids?\b"
    r"|\bmother\W(nature|earth|board)|\bfather\W(christmas|time)\b|\bhis (and|&) hers\b|\bgrooms?\W+(the|an?|his|her|its|their)\b",
    re.IGNORECASE,
)
"""What holds a gendered word and names nobody's gender."""

APOSTROPHES = ("'", "’")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
COUNTS = {"a": 1, "an": 1, **{word: number for number, word in enumerate(NUMBERS) if number}}
AGES = {"baby": "baby", "toddler": "toddler", "infant": "infant", "kid": "kid", "child": "child", "teenage": "teenager", "teenaged": "teenager"}
AGES |= {"teen": "teenager", "teenager": "teenager", "adolescent": "adolescent"}
SMALL, YOUNG = {"little", "small", "tiny"}, {"young", "younger", "youngest"}
QUESTIONS = ("what", "where", "when", "how", "why", "who", "which")
NEAR = 50
"""Words that a sentence may have."""
IRREGULAR = {
    "is": "are",
    "was": "were",
    "has": "have",
    "does": "do",
    "goes": "go",
    "isn": "aren",
    "wasn": "weren",
    "hasn": "haven",
    "doesn": "don",
    "focuses": "focus",
}


def rewrite(text: str, mode: str, seed: int = 0, language: str = "en") -> str:
    """The text with its gendered words made neutral, swapped or balanced. Raises SettingError for another mode, or another language than English.

    >>> rewrite("A policeman looks at his dog. He's tired.", "neutral")
    "A police officer looks at their dog. They're tired."
    >>> rewrite("THE GIRL'S mother hugs her.", "swap")
    "THE BOY'S father hugs him."
    >>> rewrite("A man and a woman are on an actress' boat.", "neutral")
    "Two people are on an actor's boat."
    """
    if mode not in MODES:
        raise SettingError(f"gendered words can be made {', '.join(MODES)}; {mode!r} came.")
    if language != "en":
        raise SettingError(f"gendered words are known in English alone (language 'en'), and {language!r} came. Leave such text as it is.")
    if mode == "balanced" and not coin(text, seed):
        return text
    line = _Line(text)
    if mode == "neutral":
        line.neutralise()
    else:
        line.swap()
    return line.text()


def coin(text: str, seed: int) -> bool:
    """Whether "balanced" swaps it."""
    return hashlib.sha256(f"{seed} {text}".encode()).digest()[0] % 2 == 0


def gendered(text: str) -> list[str]:
    """The gendered words in a text, pronouns too, lower-cased, in their order.

    >>> gendered("A man-made hill, and the boys' dog with his ball.")
    ['boys', 'his']
    """
    line = _Line(text)
    return [low for low, known in zip(line.low, line.known, strict=True) if known]


def genders(text: str) -> frozenset[Gender]:
    """Whom the text names: by nouns and by male and female, not by pronouns, which a dog has too."""
    return frozenset(known.gender for known in _Line(text).known if known and not known.pronoun)


class _Line:
    """A text as words and the gaps behind them, rewritten from left to right. `known` says of each word what it is as a gendered word, if it is one;
    `low` is what the writer wrote, in small letters."""

    def __init__(self, text: str):
        pieces = re.split(r"(\w+)", text)
        self.head, self.words, self.gaps = pieces[0], pieces[1::2], pieces[2::2]
        self.low = [word.lower() for word in self.words]
        self.known = [WORDS.get(word) for word in self.low]
        if not any(self.known):
            return
        starts = list(itertools.accumulate(map(len, itertools.chain(*zip(self.words, self.gaps, strict=True))), initial=len(self.head)))[::2]
        for match in LEFT.finditer(text):
            first, last = (bisect_left(starts, end) for end in match.span())
            self.known[first:last] = [None] * (last - first)
        titled = all(word[0].isupper() for word in self.words if len(word) > 3)
        for place, known in enumerate(self.known):
            if known and (not self._stands_alone(place) or (not (titled or known.pronoun) and self._in_name(place))):
                self.known[place] = None
        for place, word in enumerate(self.low):
            if self.known[place] and word in ALONE and not self._possessive(place):
                self.known[place] = ALONE[word]

    def text(self) -> str:
        return self.head + "".join(word + gap for word, gap in zip(self.words, self.gaps, strict=True))

    def swap(self) -> None:
        for place, known in enumerate(self.known):
            if known:
                self._put(place, known.twin)

    def neutralise(self) -> None:
        place, animal = 0, self._names_animals_alone()
        while place < len(self.words):
            known = self.known[place]
            if known is None or self._join(place):
                place += 1
            elif known.pronoun:
                self._put(place, ITS[known.neutral] if animal else known.neutral)
                if known.neutral == "they" and not animal:
                    self._agree(place)
                place += 1
            elif self._is_aged(place):
                age = AGES[self.low[place - 1]]
                self._cut(place, place + 1, behind=True)
                self._put(place - 1, _plural(age) if known.plural else age)
            elif self._says_who(place) or self._is_adjective(place):
                following = self.words[place + 1]
                self.words[place + 1] = following if following.isupper() else _capitals(self.words[place], following)
                self._cut(place, place + 1)
                self._article(place)
            else:
                self._put(place, self._neutral(place, known))
                place += 1

    # What stands where

    def _names_animals_alone(self) -> bool:
        """Then "his" is a dog's: its. But "his brown dog" is somebody's."""
        named = {*self.low, *(word.removesuffix("s") for word in self.low)}
        free = {word for place, word in enumerate(self.low) if not {"his", "her"}.intersection(self.low[max(0, place - 2) : place])}
        animals = {*free, *(word.removesuffix("s") for word in free)} & ANIMALS
        return bool(animals) and not named & (PEOPLE | ROLES) and all(known is None or known.pronoun for known in self.known)

    def _next(self, place: int, step: int = 1) -> str:
        return self.low[place + step] if place + step < len(self.low) else ""

    def _before(self, place: int) -> str:
        """The word before, where only a space stands between."""
        return self.low[place - 1] if place and self.gaps[place - 1] == " " else ""

    def _spaced(self, place: int) -> bool:
        """Only white space stands behind it, and then a word."""
        return place + 1 < len(self.words) and self.gaps[place].isspace()

    def _stands_alone(self, place: int) -> bool:
        """Not part of a word with hyphens, but for "ex-wife", "mother-in-law" and "bride-to-be"."""
        before = place > 0 and self.gaps[place - 1] == "-" and self.low[place - 1] not in HYPHENS
        return not before and not (self.gaps[place] == "-" and self._next(place) not in ("", "in", "to"))

    def _in_name(self, place: int) -> bool:
        """A capital beside another, neither of them because a sentence begins: Guy Fawkes, the Beach Boys, Queens, New York, the Isle of Man."""
        if not self.words[place][0].isupper() or self.words[place].isupper():
            return False
        before = place - 2 if self._before(place) == "of" else place - 1
        behind = self.words[place + 1] if place + 1 < len(self.words) and self.gaps[place] in (" ", ", ") else ""
        if behind[:1].isupper() and behind != "I" and behind.lower() not in WORDS:
            return True
        return before > 0 and self.gaps[place - 1] == " " == self.gaps[before - 1] and self.words[before][0].isupper()

    def _possessive(self, place: int) -> bool:
        """Of his and her: a noun phrase follows. "her left hand", "her smiling face", not "her in", nor "watches her eating a cake"."""
        while (other := self._alternative(place)) and self.low[other] in ALONE:
            place = other
        if not self._spaced(place):
            return False
        following = self._next(place)
        if following in OBJECT:
            return self.gaps[place + 1] == "-"  # her off-white dress
        if following.endswith(("ing", "ly")) and noun(following) is None:
            return self._spaced(place + 1) and self._next(place, 2) not in OBJECT
        if following.endswith("s") and noun(following) is None:  # "the man behind her smiles"
            return not re.search(r"\b(behind|beside|around|near|next to|across from)$", " ".join(self.low[max(0, place - 3) : place]))
        return True

    def _alternative(self, place: int) -> int:
        """Where the other pronoun is of "he or she", "his/her", "him and her"; else 0."""
        other = place + 1 if self.gaps[place].strip() == "/" else place + 2
        joined = other == place + 1 or (self._spaced(place) and self._spaced(place + 1) and self.low[place + 1] in ("or", "and"))
        pair = (PRONOUNS.get(self.low[place]), PRONOUNS.get(self._next(other, 0))) if joined else (None, None)
        return other if pair[0] and pair[1] and pair[0].gender != pair[1].gender else 0  # "her and her dog" are somebody, and a dog

    def _is_aged(self, place: int) -> bool:
        """ "a baby boy", "teenage girls": the word before says it all."""
        return self.low[place] in ("boy", "boys", "girl", "girls") and self._before(place) in AGES

    def _says_who(self, place: int) -> bool:
        """ "a girl scout", "women tennis players": the words behind say who it is."""
        following = self._next(place)
        role = following in ROLES or following.removesuffix("s") in ROLES or self._next(place, 2) in ("player", "players", "team")
        return self._spaced(place) and role

    def _is_adjective(self, place: int) -> bool:
        """ "a female friend", not "a female in red"."""
        following = self._next(place)
        thing = noun(following) is not None and following not in OBJECT and not following.endswith("ing")
        return self.low[place] in ("male", "female") and self._spaced(place) and thing

    # What is written

    def _cut(self, start: int, stop: int, behind: bool = False) -> None:
        """Leaves words out, each with the gap behind it, or `behind` a word with those before them."""
        for row in (self.words, self.low, self.known):
            del row[start:stop]
        del self.gaps[start - behind : stop - behind]

    def _put(self, place: int, new: str) -> None:
        """In the capitals of what it stands for, after the article and with the possessive that go with it: the boys' and the children's."""
        old, gap, known = self.words[place], self.gaps[place], self.known[place]
        self.words[place] = _capitals(old, new)
        if gap.strip() in APOSTROPHES and self._next(place) == "s":
            if known and known.plural and new.endswith("s"):  # gentlemen's, ladies'
                self._cut(place + 1, place + 2, behind=True)
                self.gaps[place] = gap + self.gaps[place]
        elif gap[:1] in APOSTROPHES and gap[1:].isspace() and self._next(place) and not new.endswith("s") and not self._quoted(place):
            self.gaps[place] = gap[0] + ("S" if old.isupper() else "s") + gap[1:]
        self._article(place)

    def _quoted(self, place: int) -> bool:
        """An apostrophe before it may have opened a quotation."""
        near = self.gaps[max(0, place - NEAR) : place]
        return self.head[-1:] in APOSTROPHES or any(gap[-1:] in APOSTROPHES and len(gap) > 1 for gap in near)

    def _article(self, place: int) -> None:
        """a or an, before a word that was not there."""
        if self._before(place) in ("a", "an"):
            word = self.words[place]
            self.words[place - 1] = _capitals(self.words[place - 1], "an" if _vowel(word.lower()) else "a", word)

    def _neutral(self, place: int, known: Word) -> str:
        """Of a noun; where the writer wrote "a women" or "two woman", in the number that was meant. A girl is a young person, for one in five is a
        woman to somebody else who saw the photo; a little girl is a child."""
        before, plural = self._before(place), known.plural
        if self.gaps[place][:1] not in APOSTROPHES:
            plural = before not in ("a", "an") if plural else COUNTS.get(before, 1) > 1
        single = self._one(place, known)
        return _plural(single) if plural else single

    def _one(self, place: int, known: Word) -> str:
        """The neutral noun, singular."""
        if known.neutral != "young person":
            return known.neutral
        adjectives = self.low[self._phrase(place) + 1 : place]
        return "child" if SMALL.intersection(adjectives) else "person" if YOUNG.intersection(adjectives) else known.neutral

    def _phrase(self, place: int) -> int:
        """Where the article, number or other word stands that a noun's adjectives follow, three at most; -1 at the beginning."""
        at = place - 1
        while at >= 0 and at > place - 4 and self._spaced(at) and self.low[at] not in OBJECT and self.low[at] not in COUNTS:
            at -= 1
        return at

    def _join(self, place: int) -> bool:
        """Two of a kind become one phrase: a man and a woman, two people; two men and a woman, three people; men and women, people; he or she, they
        (whose verb is still to be put right: False)."""
        known, other = self.known[place], self._alternative(place)
        if known is None:
            return False
        twin = self.known[other] if other else None
        if twin and twin.neutral == known.neutral:
            self._cut(place + 1, other + 1, behind=True)
            return False
        if known.pronoun or not self._spaced(place) or self._next(place) != "and" or not self._spaced(place + 1):
            return False
        other = next((at for at in (place + 2, place + 3) if at < len(self.words) and self.known[at]), 0)
        twin = self.known[other] if other else None
        if twin is None or twin.pronoun or not self._spaced(other - 1) or self.gaps[other][:1] in (*APOSTROPHES, "-"):
            return False
        second = self.low[place + 2] if other == place + 3 else ""
        if self._says_who(other) or (second and self._is_adjective(other)):
            if not second:  # male and female jockeys: jockeys
                self.words[other] = _capitals(self.words[place], self.words[other])
                self._cut(place, other)
            return False
        if known.neutral != twin.neutral or known.neutral == "peoples":
            return False
        phrase = _plural(self._one(place, known))
        at = self._phrase(place)
        first = self.low[at] if at >= 0 and self._spaced(at) else ""
        beside, plurals = at == place - 1, known.plural + twin.plural
        one, two = COUNTS.get(first, 0), COUNTS.get(second, 0)
        if one and ((two and beside) or not (second or twin.plural)) and one + two < len(NUMBERS) - 1:
            self.low[at] = NUMBERS[one + (two or 1)]
            self.words[at] = _capitals(self.words[at], self.low[at], self.words[place])
        elif second in ("", "the" if first == "the" and beside else "") and plurals == 0:
            phrase = f"two {phrase}" if beside else phrase
        elif second or plurals == 1:
            return False
        self._cut(place + 1, other + 1, behind=True)
        self._put(place, phrase)
        return True

    def _agree(self, place: int) -> None:
        """The verb of a he or she that became they: behind it, or before it in a question; and one behind "and" that has no other subject."""
        if self.gaps[place].strip() in APOSTROPHES and self._next(place) == "s":
            has = self._next(place, 2) in ("got", "been", "had", "done", "gone", "just")
            self.words[place + 1] = _capitals(self.words[place + 1], "ve" if has else "re", self.words[place])
            return
        if self._before(place) in ("is", "was", "has", "does") and (place == 1 or self.low[place - 2] in QUESTIONS):
            self._bare(place - 1)
            return
        verb = place + 1
        while self._spaced(verb - 1) and (self.low[verb] in ADVERBS or self.low[verb].endswith("ly")):
            verb += 1
        if not self._spaced(verb - 1):
            return
        self._bare(verb)
        for at in range(verb + 1, min(verb + NEAR, len(self.words) - 1)):
            if any(mark in self.gaps[at - 1] for mark in ".;!?") or self.low[at] in ("while", "when", "because"):
                return
            if self.low[at] in ("and", "or", "then") and self._spaced(at) and noun(self.low[at + 1]) is None:
                self._bare(at + 1)

    def _bare(self, place: int) -> None:
        """The verb as it stands behind they: are, have, run, catch, carry."""
        word = self.low[place]
        if word in IRREGULAR:
            self.words[place] = _capitals(self.words[place], IRREGULAR[word])
        elif word.endswith("ies") and len(word) > 4:
            self.words[place] = _capitals(self.words[place], word[:-3] + "y")
        elif word.endswith("s") and not word.endswith("ss") and word not in NO_VERBS and word not in WORDS:
            self.words[place] = self.words[place][: -2 if word.endswith(("ches", "shes", "sses", "xes", "zzes")) else -1]


def _capitals(old: str, new: str, beside: str = "") -> str:
    """Whether a single letter stands among capitals, the word `beside` it says.

    >>> _capitals("Man", "police officer"), _capitals("MEN", "women"), _capitals("A", "two"), _capitals("A", "two", "MEN")
    ('Police officer', 'WOMEN', 'Two', 'TWO')
    """
    if old.isupper() and (len(old) > 1 or (beside.isupper() and len(beside) > 1)):
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def _vowel(word: str) -> bool:
    """It begins with the sound of a vowel."""
    return bool(re.match(r"(?!one\b|once|uni[^nm]|us[eu]|eu|ewe)[aeiou]|hour|honest|heir", word))


def _plural(word: str) -> str:
    """
    >>> [_plural(word) for word in ("woman", "police officer", "salesperson", "grandchild", "lady", "boy", "wife", "hero", "monarch")]
    ['women', 'police officers', 'salespeople', 'grandchildren', 'ladies', 'boys', 'wives', 'heroes', 'monarchs']
    """
    for end, instead in (
        ("person", "people"),
        ("persons", "people"),
        ("man", "men"),
        ("child", "children"),
        ("wife", "wives"),
        ("hero", "heroes"),
        ("arch", "archs"),
    ):
        if word.endswith(end):
            return word.removesuffix(end) + instead
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "ch", "sh")) else "s")


def _rows(key: str) -> list[list[str]]:
    return [[word.replace("_", " ") for word in row.split()] for row in TABLE[key].replace("\n", ",").split(",") if row]


def _table() -> dict[str, Word]:
    singular: dict[str, Word] = {}
    for man, woman, neutral in _rows("twins"):
        singular |= {man: Word("man", woman, neutral), woman: Word("woman", man, neutral)}
    for gender, word, twin, neutral in _rows("one_way"):
        singular[word] = Word("man" if gender == "man" else "woman", twin, neutral)
    plural = {_plural(word): Word(known.gender, _plural(known.twin), known.neutral, True) for word, known in singular.items()}
    careless = {  # a possessive without its apostrophe is frequent
        "mans": Word("man", "womans", "persons"), "womans": Word("woman", "mans", "persons"),
        "mens": Word("man", "womens", "peoples"), "womens": Word("woman", "mens", "peoples"),
    }  # fmt: skip
    return singular | plural | careless | PRONOUNS


WORDS = _table()
