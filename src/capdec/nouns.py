"""The things a caption names: a lexicon of some 1,300 words for what is to be seen in photos (`nouns.txt`, made by hand), and their plurals.

What it does not know: words outside the lexicon, which are passed over, and grammar: "a swing" and "they swing" are the same to it.
"""

import functools
from collections.abc import Iterable
from importlib import resources

IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "leaves": "leaf", "knives": "knife", "shelves": "shelf",
    "mice": "mouse", "geese": "goose", "oxen": "ox", "policemen": "policeman", "firemen": "fireman", "gentlemen": "gentleman", "workmen": "workman",
    "fishermen": "fisherman", "cameramen": "cameraman", "businessmen": "businessman", "calves": "calf", "scarves": "scarf", "loaves": "loaf",
}  # fmt: skip
PEOPLE = frozenset({"person", "man", "woman", "child", "boy", "girl", "baby", "adult"})


@functools.cache
def lexicon() -> dict[str, str]:
    """Singular -> the first word of its group: "guy" -> "man"."""
    text = resources.files("capdec").joinpath("nouns.txt").read_text(encoding="utf-8")
    groups, _, single = "\n".join(line for line in text.split("\n") if not line.startswith("#")).partition("\n\n")
    known = {word: word for word in single.split()}
    return known | {word: line.split()[0] for line in groups.splitlines() for word in line.split()}


def noun(word: str) -> str | None:
    """
    >>> noun("dogs"), noun("ladies"), noun("guys"), noun("quickly")
    ('dog', 'woman', 'man', None)
    """
    known = lexicon()
    stems = [word, IRREGULAR.get(word, "")]
    stems += [word[: -len(ending)] + instead for ending, instead in (("s", ""), ("es", ""), ("ies", "y")) if word.endswith(ending)]
    return next((known[stem] for stem in stems if stem in known), None)


def nouns(tokens: Iterable[str]) -> list[str]:
    """In their order, each once."""
    return list(dict.fromkeys(found for token in tokens if (found := noun(token)) is not None))


def seen(thing: str, named: set[str]) -> bool:
    """Whether it is among the things named: "man" is where "person" is, and the other way round.

    >>> seen("man", {"person"}), seen("person", {"woman"}), seen("man", {"woman"})
    (True, True, False)
    """
    return thing in named or (thing in PEOPLE and "person" in named) or (thing == "person" and bool(named & PEOPLE))
