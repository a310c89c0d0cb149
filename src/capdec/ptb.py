"""The tokens by which the COCO evaluation compares captions, without Java: those of Stanford's PTBTokenizer 3.4.1 run with `-preserveLines
-lowerCase`, less punctuation. None of its code is copied: the rules were written from what is known of them and corrected by asking it.

It knows nothing of scores or datasets. Where it differs, all of it rare:

- Java reads all captions as one file and looks beyond the end of a caption. One that ends in a single letter ("holding the letter P.") keeps the
  period, "p.", unless the next caption begins with A, The, In and the like, or with a tag; one that ends in "no." or "fig." keeps it where the next
  begins with a digit. Here they are always "p", "no" and "fig". At the very end of the file Java also misreads a last smiley, 'll, 're or 've.
- A line break other than \\n (\\r, \\v, \\f, U+2028, U+2029) starts a line there and shifts all captions that follow; here it separates words.
- Letters that Unicode gained after 2012 are left out there; here they are letters. A capital sigma before a digit or hyphen may become the other
  small one (σ, ς).
"""

import re
from collections.abc import Callable
from functools import lru_cache

Writer = Callable[[str], str]
"""How a token is written."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Left out. The evaluation means to leave out -LRB- and other brackets as well, but tokens are lower-cased by then, so "-lrb-" stays."""


def tokenize(caption: str) -> str:
    """The tokens joined by a space, as the evaluation hands them to its scorers.

    Scorers split at any white space: a token with a no-break space inside, such as "1 1/2", is two to them, here as with Java.

    >>> tokenize("A man's best-friend (dog) isn't here, is it?")
    "a man 's best-friend -lrb- dog -rrb- is n't here is it"
    """
    line = caption.replace("\n", " ")
    pieces = [line] if _WHOLE.search(line) else _PIECES.findall(line)
    return " ".join(filter(None, map(_piece, pieces))).rstrip()


# Words recur, so a caption goes in pieces whose tokens are remembered: a word, and the next one too where a rule may look across the space. Such
# rules have a digit or a period before the space. Only tags and unusual white space need the whole line.
_PIECES = re.compile(r"(?:[^ ]*[.\d][^ ]* +)*[^ ]+")
_WHOLE = re.compile(r"<|[^\S ]")


@lru_cache(maxsize=1 << 16)
def _piece(text: str) -> str:
    return " ".join(token for token in map(str.lower, _scan(text + "\n")) if token and token not in PUNCTUATION)


def _scan(text: str) -> list[str]:
    """Of all rules that match, the longest match wins, what has to follow the token included; of equally long ones the first rule. A character that
    no rule knows, such as an emoji, is left out."""
    tokens = []
    at = 0
    write: Writer
    while at < len(text):
        end, token, write = at, text[at], _nothing
        for pattern, how in _RULES:
            if (match := pattern.match(text, at)) and match.end() > end:
                end, token, write = match.end(), match[1], how
        tokens.append(write(token))
        at += len(token)
    return tokens


def _nothing(token: str) -> str:
    return ""


def _as(text: str) -> Writer:
    return lambda token: text


def _from(table: dict[str, str]) -> Writer:
    return lambda token: table.get(token, token)


def _plain(token: str) -> str:
    """Without soft hyphens, unless it is nothing else; AT&amp;T -> AT&T"""
    return re.sub(_AMP, "&", token.replace("\u00ad", "") or "-")


def _quotes(token: str) -> str:
    """’s -> 's, “ -> ``"""
    for kind, plain in (("[\u0092’›]|&apos;", "'"), ("[\u0091‘‛‹]", "`"), ("[\u0093“«]", "``"), ("[\u0094”»]", "''")):
        token = re.sub(kind, plain, token)
    return token


def _blank(token: str) -> str:
    """1 1/2 with a no-break space"""
    return re.sub(_SPACE, "\u00a0", token)


def _round(token: str) -> str:
    """:-) -> :--RRB-"""
    return token.replace("(", "-LRB-").replace(")", "-RRB-")


# Characters. Astral ones (emoji) belong to no class.
_NUMERALS = "".join(c for c in map(chr, range(0x10000)) if c.isnumeric() and not c.isalpha() and not c.isdecimal())  # ² ½ Ⅷ
_MARKS = (  # accents and vowel signs, which continue a word, and the soft hyphen
    "\u00ad\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6\u0483-\u0487\u055a-\u055f\u0591-\u05bd\u05bf"
    "\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4\u06e7-\u06ed\u06fd\u06fe\u070f\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3"
    "\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c"
    "\u0a3e-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31"
    "\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
)
_SYMBOLS = (
    r"+%&~^|\\¦§¨©¬®¯°±²³´¶·¸¹×÷\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060a\u060c\u0614\u061b\u061e\u066a\u066d\u0703-\u070d"
    r"\u07f6-\u07f8\u0964\u0965\u0e4f\u1fbd\u2016\u2017\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u207a-\u207e\u208a-\u208e\u2100-\u214f"
    r"\u2155-\u215e\u2190-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_SPACE = r"[ \t\u00a0\u2000-\u200a\u3000]"
_BREAK = rf"(?:{_SPACE}|\n)"
_DIGIT = r"[^\D\U00010000-\U0010ffff]"
_BASE = rf"[^\W\d_{_NUMERALS}\U00010000-\U0010ffff]"  # a letter that is one by itself
_LETTER = rf"(?:{_BASE}|[{_MARKS}]|&[aeiouAEIOU](?i:acute|grave|uml);)"
_WORDLIKE = rf"(?:{_LETTER}|{_DIGIT})"
_APOSTROPHE = r"(?:['\u0092’]|&(?i:apos);)"
_ANY_APOSTROPHE = rf"(?:{_APOSTROPHE}|[`\u0091‘‛])"
_AMP = "&(?i:amp);"
_PAUSE = "[,;:、]"


def _any(words: str) -> str:
    return f"(?i:{'|'.join(words.split())})"


def _capital(words: str) -> str:
    """Any case but for the first letter, which is a capital."""
    return f"(?:{'|'.join(f'{word[0]}(?i:{word[1:]})' for word in words.split())})"


# Words, and what is made of them.
_WORD = rf"{_LETTER}{_WORDLIKE}*(?:[.!?]{_LETTER}{_WORDLIKE}*)*"  # dog, e.g, wow!really
_ENDING = rf"{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))"  # 's, 're
_NOT = rf"[nN]{_ANY_APOSTROPHE}[tT]"  # n't
_PLAIN_PART = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}(?:{_BASE}|{_DIGIT}))?(?:{_BASE}|{_DIGIT})+"  # dog, 3x4, d'oeuvre
_HYPHENATED = rf"{_PLAIN_PART}(?:[-_\u058a\u2010\u2011]{_PLAIN_PART})*"  # t-shirt, coup-d'oeil
_ACRONYM = (  # U.S, non-U.S, U.S.-U.K, less the last period
    r"(?:[A-Za-z](?:\.[A-Za-z])+|(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(?:U\.K|U\.S\.S\.R)))"
)
_LONG_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9\u00ad]+))+"  # 1.5-inch, 1,000-seat, pro-U.S.-led
_AMPERSANDED = rf"[A-Z]+(?:(?:{_AMP}|[+&])[A-Z]+)+"  # AT&T
_NUMBER = rf"[-+]?(?:{_DIGIT}*(?:[.:,\u00ad\u066b\u066c]{_DIGIT}+)+|{_DIGIT}+)"  # 5, -5, 1,000, 10:30, .5
_NAME = r"[A-Za-z][A-Za-z0-9_:.-]*"
_TAG = rf"<(?:[!?][A-Za-z-][^>\r\n]*|/{_NAME} *|{_NAME}(?: +{_NAME}(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"))?)* */? *)>"  # <b>, <a href="x">, </b>

# Abbreviations, which take the period that follows.
_BEFORE_SMALL = (  # may end a sentence
    _any(
        "Jan Feb Mar Apr Jun Jul Aug Sept? Oct Nov Dec Mon Tues? Wed Thu Thurs Fri "
        "Ala Ariz Calif Colo Conn Ct Dak Fla Ga Ind Kans? Ky Md Mich Minn Mo Mont Neb Nev Okla Penn Tenn Va Vt Wisc? Wyo "
        r"Inc Cos? Corp Ltd Plc Rt Bancorp Bhd Assn Univ Intl Sys Dept Bldg Blvd Rd Jr Sr Bros Esq Ed\.D Ph\.D tel est ext sq etc al seq"
    )
    + "|(?i:pp?t)[ye](?i:s?)|"
    + _capital("Az Ark Del Ill La Mass Miss Ore Pa Tex Wash")
)
_BEFORE_CAPITAL = (  # mostly titles
    _any(
        "Mr Mrs Ms Mme Mlle Msgr Messrs Drs? Profs? Sens? Reps? Govs? Attys? Pres Treas Hon Rev Insp Supts? Asst Assoc "
        "Gen Col Lt Lieut Maj Capt Sgt Cpl Pvt Pfc Sfc Spc Brig Comdr Cmdr Adm Ens Det Ste? Mt Ave ft "
        "Alex Wm Jos Cie Invt Elec Natl adj adv cf ph vs"
    )
    + "|(?i:m)[ft](?i:g)"
)
_BEFORE_DIGIT = _any("ca figs? prop nos? art op pp")
_FIRST_WORDS = _capital(  # after them a single letter and its period are the end of a sentence
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One Other Our She Since So Some "
    r"Such That The Their Then There These They This We What When While Yet You Mr\. Ms\."
)
# Telephone numbers: (555) 123-4567, +44 20 7946 0958, 555.123.4567
_GAP = "[- \u00a0]"
_PHONE = (
    rf"(?:\([0-9]{{2,3}}\)[ \u00a0]?|\+{{0,2}}(?:[0-9]{{2,4}}{_GAP}){{1,2}})[0-9]{{3,4}}{_GAP}?[0-9]{{3,5}}"
    r"|(?:\+{0,2}[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)
# Addresses. The odd sets of characters are the reference's.
_WEB = r"(?i:https?)://[^ \t\n\f\r\"<>|(){}]+[^ \t\n\f\r\"<>|.!?(){},-]"
_SITE = r"(?:(?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu))"
_PATH = r"/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-]"
_HOST = r"[^ \t\n\f\r\"<>|(){}.\u00a0]+"
_MAIL = rf"(?:&(?i:lt);|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){{}}\u00a0]*@(?:{_HOST}\.)*{_HOST}(?:&(?i:gt);|>)?"
_FILE = rf"{_WORDLIKE}+(?:\.{_WORDLIKE}+)*\." + _any(
    "bat bmp c class cgi cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl png ppt ps py sql tar txt wav x xml zip"
)
_FACE = "[-^x=~<>']"
_STRAIGHT = r"c'mon e'er s'mores ev'ry li'l nat'l nor'easter cont'd\."  # with this apostrophe only: c’mon is c|’m|on
_CURLY = "d'ye c'est cap'n"  # with any


def _rule(token: str, before: str = "", write: Writer = str) -> tuple[re.Pattern[str], Writer]:
    """`token` where `before` follows it."""
    return re.compile(f"({token}){before}"), write


_RULES = [
    _rule(r"[cC]\+\+|[cCfF]#"),
    # The second half of an assimilation is an ordinary word: can|not, gon|na, got|ta, lem|me, 't|is.
    _rule("(?i:can)", "(?i:not)"),
    _rule("(?i:gon|wan)", "(?i:na)"),
    _rule("(?i:got)", "(?i:ta)"),
    _rule("(?i:lem|gim)", "(?i:me)"),
    _rule("'[tT]", "(?i:is|was)"),
    # Tags and entities: <b>, &#39;, &nbsp;, and a few of old newswires.
    _rule(_TAG, write=_blank),
    _rule("&(?:#[0-9]+|(?i:ht|tl|ur|lr|qc|ql|qr|odq|cdq));"),
    _rule(rf"{_SPACE}+|&(?i:nbsp);", write=_nothing),
    _rule("&(?i:mdash|ndash|md);|[\u2013-\u2015\u0096\u0097]", write=_as("--")),
    _rule(_AMP, write=_as("&")),
    _rule('"|&(?i:quot);', write=_from({'"': "''", "&quot;": "''"})),
    _rule("<|&(?i:lt);", write=_as("<")),
    _rule(">|&(?i:gt);", write=_as(">")),
    # Words, and what is cut from their end: dog|'s, do|n't.
    _rule(_WORD, _ENDING, _plain),
    _rule(r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", _NOT, _plain),
    _rule(_WORD, write=_plain),
    # Words that keep an apostrophe: rock 'n' roll, ol', '90s, c'mon, Hawai'i, O'Brien, J'aime, l'|eau, y'|all, '99.
    _rule(rf"{_APOSTROPHE}(?:[nN]{_APOSTROPHE}?|[2-9]0[sS]|(?i:em|till?|cause))|(?i:Dunkin|somethin|ol){_APOSTROPHE}"),
    _rule(_any(_STRAIGHT)),
    _rule(_any(_CURLY).replace("'", _APOSTROPHE)),
    _rule(rf"[oO]{_ANY_APOSTROPHE}[oO]|{_BASE}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_BASE}*"),
    _rule(rf"[A-HJ-XZn]{_ANY_APOSTROPHE}{_BASE}{{2,}}"),
    _rule(f"{_ENDING}|{_NOT}", "[^A-Za-z]", _quotes),
    _rule(rf"[lLdDjJ]{_APOSTROPHE}"),
    _rule(rf"[yY]{_APOSTROPHE}", _BASE),
    _rule(rf"{_APOSTROPHE}[0-9][0-9]", _BREAK),
    # http://example.org/a?b, www.example.org, example.com/a, me@example.org, @me, #tag
    _rule(_WEB),
    _rule(_SITE + _PATH),
    _rule(_SITE),
    _rule(_MAIL),
    _rule(rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{_LETTER}+"),
    # Numbers, dates (12/25/2014), superscripts, fractions, telephone numbers, prices: $|5, US$|5.
    _rule(rf"{_DIGIT}{{1,2}}[-/]{_DIGIT}{{1,2}}[-/]{_DIGIT}{{2,4}}"),
    _rule(_NUMBER, write=_plain),
    _rule(r"[⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+)"),
    _rule(rf"(?:{_DIGIT}{{1,4}}[- \u00a0])?{_DIGIT}{{1,4}}(?:\\?/|⁄){_DIGIT}{{1,4}}", write=_blank),
    _rule("[¼½¾⅓⅔]", write=_from({"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"})),
    _rule(_PHONE, write=lambda token: _round(_blank(token))),
    _rule(r"[A-Z]*\$|#"),
    _rule("[¢£¤¥\u0080₠€؋฿₤￠￡￥￦]", write=_from({"£": "#", "¢": "cents", "\u0080": "$", "¤": "$", "₠": "$", "€": "$"})),
    # Abbreviations: Inc., Mr., No. 5, K., U.S.; vitamin C|. The; and before a pause any word with a period is one: approx.|,
    _rule(rf"(?:{_BEFORE_SMALL})\.", r"[\s\S]{2}"),  # with two more characters it beats the word "Inc.x"
    _rule(rf"(?:{_BEFORE_SMALL}|{_BEFORE_CAPITAL}|{_ACRONYM}|[A-Za-z])\."),
    _rule(rf"{_BEFORE_DIGIT}\.", rf"{_SPACE}?{_DIGIT}"),
    _rule(r"[A-Za-z]", rf"\.(?:{_SPACE}+(?:{_FIRST_WORDS}|{_TAG}){_BREAK}|{_SPACE}*\n)"),
    _rule(rf"(?:{_WORD}|{_LONG_HYPHENATED}|{_HYPHENATED}|{_AMPERSANDED})\.", _PAUSE, _plain),
    # What is more than a word: t-shirt, 1.5-inch, and/or, AT&T, S&P-500, photo.jpg.
    _rule(_HYPHENATED, write=_plain),
    _rule(_LONG_HYPHENATED, write=_plain),
    _rule(_AMPERSANDED, write=_plain),
    _rule(r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    _rule(rf"(?i:pro-|anti-|-(?:RRB|LRB|RCB|LCB|RSB|LSB)-|S(?:{_AMP}|&)(?:P-500|Ls))", write=_plain),
    _rule(_FILE, rf"(?:[.,?!]|{_BREAK})"),
    # Smileys: :-), ^_^, (>_<).
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]", _round),
    _rule(rf"{_FACE}_{_FACE}|\({_FACE}[_.]?{_FACE}\)|\([\^x=~<>']-[\^x=~<>'`]\)", write=_round),
    # Signs.
    _rule(r"[(){}\[\]]", write=_from({"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"})),
    _rule("-+", write=_from({"---": "--", "----": "--"})),
    _rule(r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085…]", write=_as("...")),
    _rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}|[?!]+|[.¡¿\u037e։؟۔܀-܂ߺ。=/]|<<|>>"),
    _rule(_PAUSE),
    _rule("'", r"[A-Za-z][^ \t\n\r\u00a0]", _as("`")),
    _rule(f"{_ENDING}|{_NOT}", write=_quotes),
    _rule(rf"'{{1,2}}|[`‘-‟\u0091-\u0094‹›«»]{{1,2}}|{_APOSTROPHE}", write=_quotes),
    _rule(f"[{_SYMBOLS}]"),
]
