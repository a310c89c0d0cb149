"""Make a text fit to be trained on: a book, news, anybody's sentences, for captions in their manner.

    running text    ->  sentences          a .txt in paragraphs between blank lines, or the texts of any dataset part, each a paragraph
    sentences       ->  those that serve   whole, of 4 to 20 words, each once, about what can be seen
    with `mix`      ->  a stated share of them among plain captions

Captions can come too, and are then taken as they are but for what is asked. `output` is JSON lines for `capdec train`; OUTPUT.report.json beside it
says what was dropped and why, with examples.

What this does not know: what a sentence means. Visual is a rule about words (`nouns`) or about a backbone's embeddings (`likeness`);
docs/open-text.md has how often each is right.
"""

import itertools
import json
import random
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from capdec import recipe
from capdec.checkpoint import replacing, write_json
from capdec.corpus import Pairs, Spec, open_dataset, read_pairs
from capdec.datasets.jsonl import JSONL
from capdec.errors import DataError, MissingExtra, SettingError, not_utf8
from capdec.gender import coin, rewrite
from capdec.nearest import nearest
from capdec.nouns import nouns
from capdec.progress import Progress
from capdec.protocols import Backbone

VISUAL = ("nouns", "likeness", "none")

WORDS = (4, 20)
SHARE, NEAR = 0.5, 95.0
TEXTS = 4096  # at a time to a backbone
EXAMPLES = 10  # of each reason, in the report
PAIRED = ('"', "“”„", "«»", "()")  # marks that come in twos
PROBED = 2_000  # plain captions that say how near plain captions are to each other
MARKS = r".,;:!?'\"()\-–—’‘“”„«»…&%/$£€°।。、，！？"
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
ODD = re.compile(rf"[^\w\s{MARKS}]|_|\w://|www\.")
END = re.compile(r"[.!?…।。！？]['\"’”»)]*$")
VERSE = re.compile(r"(?:^[ \t]*[1-3]?[A-Z][A-Za-z]+|\A\s*)\d+:\d+[ \t]+", re.MULTILINE)  # Ge1:2 where a line begins, 1:2 where a paragraph does
ITALICS = re.compile(r"(?<![^\W_])_([^_]+)_(?![^\W_])")
CUT = re.compile(r"([^\W\d_]*)([-–—])\n\s*([^\W\d_]*)")  # where a line ends
ENGLISH = frozenset(("a", "the", "is", "are", "of", "and", "with", "to", "it", "they", "them"))
GUTENBERG = re.compile(r"\*\*\* ?START OF [^\n]*\*\*\*(.*?)\*\*\* ?END OF ", re.DOTALL)


def prepare(
    inputs: str | Sequence[str],
    output: str | Path,
    *,
    sentences: bool | None = None,
    words: Sequence[int] | None = None,
    visual: str | None = None,
    mix: Spec | None = None,
    share: float | None = None,
    backbone: Backbone | None = None,
    near: float | None = None,
    recase: bool = False,
    gender: str | None = None,
    language: str = "en",
    seed: int = 0,
) -> dict[str, Any]:
    """Writes `output`, and returns what is in its report.

    `sentences` says that the inputs are running text, to be cut into sentences; else each of their texts is a caption (a .txt, which may be either,
    has to be told). Doubles and texts with odd characters are dropped. Where nothing else is asked, sentences have 4 to 20 words (`words`, both
    included) and are visual by `nouns`, and captions are of any length and about anything. `visual`:

        nouns       it names something of `capdec.nouns`, which is English
        likeness    by `backbone` it is as near to some plain caption of `mix` as `near` percent (95) of those are to one of another photo

    `mix` are plain captions; `share` (0.5) is that of the inputs' texts among all that is written: the side there is too much of is cut to it, whole
    photos at a time, in an order that `seed` decides. `recase` gives words in small letters the capitals that the inputs most often give them.
    `gender` rewrites the gendered words of all that is written, of `mix` too: "neutral", "balanced" or "swap" (`capdec.gender`); it and `nouns` know
    English, and `language` says what the texts are in.

    Raises SettingError for what cannot be asked, MissingExtra without syntok, DataError for a file that cannot be used, or where nothing is left.
    """
    inputs = [inputs] if isinstance(inputs, str) else inputs
    if not inputs:
        raise SettingError("there is nothing to prepare: name a text, or a file of captions.")
    if sentences is None and (untold := [path for path in inputs if path.lower().endswith(".txt")]):
        raise SettingError(f"{untold[0]}: is it running text (--sentences), or a caption a line (--lines)?")
    if share is not None and mix is None:
        raise SettingError("share is that of the inputs among plain captions: name those (--mix), or leave it out.")
    if near is not None and visual != "likeness":
        raise SettingError("near is what likeness asks: take that criterion (--visual likeness), or leave it out.")
    share, near = SHARE if share is None else share, NEAR if near is None else near
    words, visual = words or (WORDS if sentences else (1, 1_000)), visual or ("nouns" if sentences else "none")
    if len(words) != 2 or not 1 <= words[0] <= words[1]:
        raise SettingError(f"words are the fewest and the most of a text; {' and '.join(map(str, words))} came.")
    if visual not in VISUAL:
        raise SettingError(f"visual is {', '.join(VISUAL)}; {visual!r} came.")
    if not 0 < share <= 1 or not 0 < near <= 100:
        raise SettingError(f"share is above 0 and at most 1, near in percent above 0 and at most 100; {share} and {near} came.")
    if visual == "nouns" and language != "en":
        raise SettingError(f"the lexicon of visible things is English, and the texts are in {language!r}: take likeness to plain captions, or none.")
    if visual == "likeness" and (mix is None or backbone is None):
        raise SettingError("likeness is to plain captions, by a backbone: name both (--mix, --backbone), or take another criterion.")

    if not JSONL.recognises(output):
        raise SettingError(f"{output} will hold JSON lines, and its name should say so: give it one that ends in {' or '.join(JSONL.suffixes)}.")
    plain_file = mix.get("path") if isinstance(mix, dict) else mix
    if Path(output).resolve() in (Path(path).resolve() for path in (*inputs, plain_file) if isinstance(path, str)):
        raise SettingError(f"{output} is one of the inputs, which would be lost. Name another file.")

    plain = read_pairs(open_dataset(mix)) if mix is not None else Pairs([], [], [])
    read = _read(inputs, bool(sentences))
    if not read:
        raise DataError(f"{', '.join(inputs)}: no sentence was found there. Is it text?")
    if visual == "nouns" and not _looks_english(read.targets):
        warnings.warn("the lexicon of visible things is English, and these texts do not look it: are they in another --language?", stacklevel=2)
    if recase:
        read = _changed(read, _recaser(read.targets))
    if gender:
        if language == "en" and not all(_looks_english(some) for texts in (read, plain) for some in (texts.targets, texts.sources)):
            raise SettingError("gendered words are known in English alone, and not all of these texts look English. Leave --gender out.")
        read, plain = (_regendered(texts, gender, seed, language) for texts in (read, plain))
    reasons, found = _faults(read, words, bool(sentences))
    looks, criterion = _visible([text for text, fault in zip(read.targets, found, strict=True) if fault is None], visual, plain, backbone, near)
    reasons["not visual"], seen = criterion, iter(looks)
    found = [fault or (None if next(seen) else "not visual") for fault in found]
    kept = read.where([fault is None for fault in found])
    counts = Counter(fault for fault in found if fault)
    if not kept:
        worst, count = counts.most_common(1)[0]
        raise DataError(f"nothing is left of {len(read):,} texts. Most of them, {count:,}, were dropped as {worst!r}: {reasons[worst]}.")

    corpus, beside = _mixed(kept, plain, share, seed) if plain else (kept, plain)
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in (*_rows(corpus), *_rows(beside)))
    texts = {fault: [text for text, one in zip(read.targets, found, strict=True) if one == fault] for fault in reasons}
    report = {
        **recipe.origin(), "inputs": list(inputs), "sentences": bool(sentences), "recase": recase, "gender": gender, "seed": seed, "read": len(read),
        "dropped": {fault: {"why": why, "count": counts[fault], "examples": _some(texts[fault], seed)} for fault, why in reasons.items()},
        "kept": {"count": len(kept), "examples": _some(kept.targets, seed)},
        "mix": {"opened": mix, "captions": len(plain), "share": share} if mix is not None else None,
        "written": {"corpus": len(corpus), "plain": len(beside), "share": round(len(corpus) / (len(corpus) + len(beside)), 4)},
    }  # fmt: skip
    write_json(report_path(output), report)
    return report


def report_path(output: str | Path) -> Path:
    """
    >>> report_path("out/prepared.jsonl").name
    'prepared.report.json'
    """
    return Path(output).with_suffix(".report.json")


def _read(inputs: Sequence[str], sentences: bool) -> Pairs:
    """Every text of the inputs, letters with their accents (NFC), and sentences as their own sources. Raises DataError."""
    read = Pairs([], [], [])
    for path in inputs:
        if sentences and path.lower().endswith(".txt"):
            text = _running(Path(path))
            found = Pairs([text], [text], [None])
        else:
            found = read_pairs(open_dataset(path))
        if sentences:
            cut, total, done = Pairs([], [], []), sum(map(len, found.targets)), 0
            with Progress(f"cutting {Path(path).name} into sentences, by characters", total) as progress:
                for text, image_id in zip(found.targets, found.image_ids, strict=True):
                    for sentence in cut_sentences(text):
                        cut.sources.append(sentence)
                        cut.targets.append(sentence)
                        cut.image_ids.append(image_id)
                        done += len(sentence)
                        progress.update(done)
            found = cut
        read.sources.extend(unicodedata.normalize("NFC", text) for text in found.sources)
        read.targets.extend(unicodedata.normalize("NFC", text) for text in found.targets)
        read.image_ids.extend(found.image_ids)
    return read


def _running(path: Path) -> str:
    """A text file whole, and of Project Gutenberg's what is between its marks. Raises DataError."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Name a text file.") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise not_utf8(f"{path}:{line}", error) from error
    text = text.replace("\r\n", "\n")
    if not text.strip():
        raise DataError(f"{path} holds no text: it is empty.")
    marked = GUTENBERG.search(text)
    return marked[1] if marked else text


def cut_sentences(text: str) -> Iterator[str]:
    """The sentences of running text, its lines joined and its paragraphs (between blank lines) apart, by syntok: English, German and Spanish. Numbers
    of verses and _marks of italics_ are dropped, and so are quotation marks whose other half is in another sentence. A word that the end of a line
    cuts is whole again where the text has it whole.

    >>> list(cut_sentences('1:1 "Look, Mr.\\nKnightley!  A dog. It runs," she\\n_cried_.'))
    ['Look, Mr. Knightley!', 'A dog.', 'It runs, she cried.']
    """
    try:
        from syntok import segmenter
    except ImportError as error:
        raise MissingExtra("syntok", "text", "cutting text into sentences") from error
    known = set(WORD.findall(text))

    def mended(cut: re.Match[str]) -> str:
        """win-dow, where the text has a window; well-known stays."""
        word = cut[1] + cut[3]
        return word if cut[1] and cut[3] and cut[2] == "-" and word in known else cut[1] + cut[2] + cut[3]

    for paragraph in re.split(r"\n\s*\n", text):
        joined = " ".join(CUT.sub(mended, VERSE.sub("", paragraph)).split())
        for part in segmenter.analyze(joined):
            for tokens in part:
                sentence = ITALICS.sub(r"\1", "".join(token.spacing + token.value for token in tokens)).strip(" -–—")
                for marks in PAIRED:
                    if sum(sentence.count(mark) for mark in marks) % 2:
                        sentence = sentence.translate(dict.fromkeys(map(ord, marks))).strip()
                if sentence:
                    yield sentence


def _changed(texts: Pairs, change: Callable[[str], str]) -> Pairs:
    """What is its own source stays so."""
    targets = [change(text) for text in texts.targets]
    sources = [new if source == old else source for source, old, new in zip(texts.sources, texts.targets, targets, strict=True)]
    return Pairs(sources, targets, texts.image_ids)


def _regendered(texts: Pairs, mode: str, seed: int, language: str) -> Pairs:
    """Sources and targets alike, where one coin is thrown for both: else "a man" would be told as "a woman"."""
    modes = [mode if mode != "balanced" else "swap" if coin(target, seed) else "" for target in texts.targets]

    def made(side: list[str]) -> list[str]:
        return [rewrite(text, now, language=language) if now else text for text, now in zip(side, modes, strict=True)]

    return Pairs(made(texts.sources), made(texts.targets), texts.image_ids)


def _recaser(texts: Sequence[str]) -> Callable[[str], str]:
    """Gives a word in small letters the capitals that `texts` most often give it where no sentence begins, and the first word of a text one. Capitals
    stay: careless writers leave them out."""
    forms: dict[str, Counter[str]] = {}
    for text in texts:
        for found in itertools.islice(WORD.finditer(text), 1, None):
            if not re.search(r"[.!?:]\W*$", text[: found.start()]):
                forms.setdefault(found[0].lower(), Counter())[found[0]] += 1
    usual = {word: counts.most_common(1)[0][0] for word, counts in forms.items()}

    def recased(text: str) -> str:
        text = WORD.sub(lambda found: usual.get(found[0], found[0]), text)
        return re.sub(r"^\W*\w", lambda found: found[0].upper(), text)

    return recased


def _looks_english(texts: Sequence[str]) -> bool:
    """A quarter of them has one of the words that most English captions have. Of Flickr8k's 96 % do, of Multi30k's German ones 0.06 %."""
    return sum(bool(ENGLISH & {word.lower() for word in WORD.findall(text)}) for text in texts) >= len(texts) / 4


def _faults(texts: Pairs, words: Sequence[int], whole: bool) -> tuple[dict[str, str], list[str | None]]:
    """What each reason means, and for each text the first that speaks against it. `whole`: it has to be a sentence."""
    reasons = {
        "odd characters": "no letter, an address, or characters that are no letters, digits or usual punctuation",
        "no sentence": "it does not end as a sentence, or has no small letter: a heading, a list",
        "too few words": f"fewer than {words[0]}",
        "too many words": f"more than {words[1]}",
        "said before": "the same but for capitals, of the same photo where it is of one",
    }
    said: set[tuple[str | None, str, str]] = set()
    found: list[str | None] = []
    for key in zip(texts.image_ids, texts.sources, texts.targets, strict=True):
        text = _letters(key[2])
        count = len(WORD.findall(text))
        same = (key[0], key[1].casefold(), key[2].casefold())
        odd = ODD.search(text) or not re.search(r"[^\W\d_]", text)
        part = whole and (text.isupper() or not END.search(text))
        kinds = (odd, part, count < words[0], count > words[1], same in said)
        found.append(next((reason for reason, true in zip(reasons, kinds, strict=True) if true), None))
        if found[-1] is None:
            said.add(same)
    return reasons, found


def _letters(text: str) -> str:
    """Without what is written on letters (the vowels of Hindi) or joins them: a pattern's letters are whole ones."""
    return text if text.isascii() else "".join(one for one in text if unicodedata.category(one)[0] != "M" and one not in "\u200c\u200d")


def _visible(texts: Sequence[str], visual: str, plain: Pairs, backbone: Backbone | None, near: float) -> tuple[list[bool], str]:
    """Whether each text passes, and the criterion in words."""
    if visual == "nouns":
        return [bool(nouns(word.lower() for word in WORD.findall(text))) for text in texts], "it names nothing of the lexicon of visible things"
    if visual == "none" or backbone is None:
        return [True] * len(texts), "not asked"
    captions = torch.cat([*_embedded(plain.sources, backbone, "embedding plain captions")])
    ids: dict[str | int, int] = {}
    photos = torch.tensor([ids.setdefault(row if image is None else image, len(ids)) for row, image in enumerate(plain.image_ids)])
    probed = torch.tensor(sorted(random.Random(0).sample(range(len(captions)), min(PROBED, len(captions)))))
    own = nearest(captions[probed], captions, 1, photos, photos[probed])[0].squeeze(1)
    least = own[own.isfinite()].quantile(1 - near / 100).item() if own.isfinite().any() else 1.0
    cosines = torch.cat([nearest(some, captions, 1)[0].squeeze(1) for some in _embedded(texts, backbone, "embedding the text")])
    why = f"its cosine to the nearest plain caption is below {least:.3f}, which {near:g} % of plain captions have to one of another photo"
    return (cosines >= least).tolist(), f"{why}, by {backbone.fingerprint}"


def _embedded(texts: Sequence[str], backbone: Backbone, name: str) -> Iterator[Float[Tensor, "N D"]]:
    """Some at a time: of a million all would be gigabytes."""
    yield torch.empty(0, backbone.dim)
    with Progress(name, len(texts)) as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ of \d+ captions", UserWarning)  # that the longest were cut
        for at in range(0, len(texts), TEXTS):
            yield backbone.encode_text(texts[at : at + TEXTS]).float().cpu()
            progress.update(min(at + TEXTS, len(texts)))


def _mixed(corpus: Pairs, plain: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """As many of both as there can be where `share` of all are the corpus'."""
    beside = round(len(corpus) * (1 - share) / share)
    if beside <= len(plain):
        return corpus, _first(plain, beside, seed)
    return _first(corpus, max(1, round(len(plain) * share / (1 - share))), seed), plain


def _first(texts: Pairs, count: int, seed: int) -> Pairs:
    """So many, whole photos of them but for one."""
    some = texts.at_most(count, seed)
    return some.where([row < count for row in range(len(some))])


def _rows(texts: Pairs) -> Iterator[dict[str, Any]]:
    """A line a photo, or a text without one."""
    keys = [row if image is None else image for row, image in enumerate(texts.image_ids)]
    for key, group in itertools.groupby(range(len(texts)), lambda row: keys[row]):
        rows = list(group)
        targets, sources = [texts.targets[row] for row in rows], [texts.sources[row] for row in rows]
        said = {"captions": targets} if sources == targets else {"source": sources, "target": targets}
        yield said if isinstance(key, int) else {"image_id": key, **said}


def _some(texts: Sequence[str], seed: int) -> list[str]:
    return random.Random(seed).sample(list(texts), min(EXAMPLES, len(texts)))
