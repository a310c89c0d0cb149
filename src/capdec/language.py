"""The language of captions: the tokens by which they are compared, and who reads it.

    "en"       those of the COCO evaluation (`ptb`)
    another    Moses' rules for it (Koehn et al. 2007; in Python: sacremoses), in lower case and without punctuation, as COCO has it for English

What it does not know: the language of a text. A captioner is told it in training, an evaluation by its captioner or by `--language`.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

from capdec import ptb
from capdec.errors import MissingExtra, SettingError

_SPOKEN = re.compile(r"[^\W_]")
_WITHOUT_SPACES = ("zh", "yue")


def tokens(language: str) -> str:
    """In words, for the record of what was scored."""
    if language == "en":
        return "PTB 3.4.1, lower case, without punctuation (capdec.ptb)"
    return f"Moses ({language}), lower case, without punctuation (capdec.language)"


@cache
def tokenizer(language: str) -> Callable[[str], str]:
    """From a caption to its tokens, joined by a space. Raises MissingExtra without sacremoses, SettingError for a language that Moses' rules do not
    know, or that writes no spaces.

    A token without a letter or a digit is punctuation and left out. So is a period at a token's end: whether it is an abbreviation's, an ordinal's or
    the caption's cannot always be told ("z.B.", "am 3.", "Nr. 12."). Compounds keep their hyphens, decimals their comma; "ss" stays another
    spelling than "ß".

    >>> tokenizer("de")("„Geht's“, ruft z.B. ein 3-jähriges Mädchen im weiß-blauen T-Shirt (Größe 2,5).")
    'geht s ruft z.b ein 3-jähriges mädchen im weiß-blauen t-shirt größe 2,5'
    """
    if language == "en":
        return ptb.tokenize
    try:
        from sacremoses import MosesTokenizer
        from sacremoses.corpus import NonbreakingPrefixes
    except ImportError as error:
        raise MissingExtra("sacremoses", "eval", f"comparing captions in {language!r}") from error
    known = sorted({"en", *NonbreakingPrefixes().available_langs.values()} - {*_WITHOUT_SPACES})
    if language not in known:
        raise SettingError(f"no tokens are known for captions in {language!r}. The languages there are, by their codes: {', '.join(known)}.")
    moses = MosesTokenizer(language)

    @lru_cache(maxsize=1 << 18)  # references come again with every system
    def tokenize(caption: str) -> str:
        pieces = (piece.rstrip(".") for piece in moses.tokenize(unicodedata.normalize("NFC", caption).lower(), escape=False))
        return " ".join(piece for piece in pieces if _SPOKEN.search(piece))

    return tokenize


def reads(part: object, language: str) -> bool:
    """Whether a backbone embeds texts in this language sensibly: what its attribute `languages` says, and English alone where it says nothing."""
    languages: Sequence[str] = getattr(part, "languages", ("en",))
    return language in languages
