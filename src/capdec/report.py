"""Several evaluations as one Markdown table and one page to look at: their figures, and photo by photo what was said, what people wrote and how that
scored, best and worst first.

Like a gallery, the page holds everything it shows and loads nothing. It runs one script, `report.js`, which its policy names by hash: that sorts and
filters the cards, and without it the page is the same in the order it was written in. It shows the best and the worst photos and says of how many.
Evaluations of different images or references share no table: their figures do not compare. What is not known: who is right where a caption and the
references disagree; the photo stands beside them.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import capdec
from capdec import bootstrap, scoring
from capdec.checkpoint import replacing
from capdec.corpus import open_dataset
from capdec.errors import CapdecError, DataError, ImageError, SettingError, brief
from capdec.gallery import head, picture

if TYPE_CHECKING:
    import PIL.Image

COLUMNS = ("CIDEr", "BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "SPICE", "CLIPScore", "RefCLIPScore", "R@1", "unseen nouns", "length", "copied")
NO_COLUMNS = ("BLEU-2", "BLEU-3", "R@5", "R@10", "captions with unseen nouns", "vocabulary", "distinct-1", "distinct-2")
"""Whatever is in neither, such as a metric of one's own, comes after the columns."""

ON_A_CARD = ("CIDEr", "METEOR", "ROUGE-L", "SPICE", "CLIPScore", "R@1", "unseen nouns")
LOWER_IS_BETTER = ("unseen nouns", "captions with unseen nouns")
NEITHER_IS_BETTER = ("length", "copied")
YES_OR_NO = ("R@1", "R@5", "R@10", "captions with unseen nouns", "copied", "in style")  # of one image these are 100 or 0

MEANINGS = {
    "itself": "the captioner's captions of the photos",
    "shuffled": "the same captions, each given to another photo",
    "nearest": "the training caption nearest to the photo",
    "constant": "one training caption for all photos",
    "person": "the first person's caption against the others', so with one reference fewer",
    "unseen nouns": "percent of the nouns that no reference names; less is better",
    "length": "in tokens",
    "copied": "percent of captions that stand word for word in the training text",
}
"""Of systems and figures."""

ABOUT = (
    "Captions of photos, and how near they come to what people wrote about them. A figure is times 100 where the field reports it so; * marks what "
    "the captioner's own backbone says, which a captioner can please without telling the photo."
)

UNKNOWN = "not known"


class Figure(NamedTuple):
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def star(self) -> str:
        return "*" if self.value is not None and self.note.endswith("own backbone") else ""

    @property
    def shown(self) -> str:
        return "-" if self.value is None else f"{self.value:.1f}{self.star}"

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else f"[{self.low:.1f}, {self.high:.1f}]"


class Row(NamedTuple):
    """One line of a table."""

    system: str
    n: int
    figures: dict[str, Figure]
    supervision: str


class Said(NamedTuple):
    """A system's caption of one image, and its figures there."""

    caption: str
    figures: dict[str, float]


class Photo(NamedTuple):
    itself: Said
    others: dict[str, Said]
    references: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class Evaluation:
    """What a report needs of a folder that `capdec evaluate` wrote. `starred` are the figures that the captioner's own backbone gave its captions,
    `opened` is the dataset as it was named there."""

    name: str
    digest: str
    rows: list[Row]
    photos: dict[str, Photo]
    starred: frozenset[str]
    facts: dict[str, str]
    left_out: int
    opened: Any


def report(folders: Sequence[str | Path], output: str | Path, *, photos: int = 200, by: str | None = None, own_parts: bool = False) -> list[str]:
    """Writes report.md and report.html into `output`, and returns why pictures are missing, a line for each reason. Of each set of images the page
    shows at most `photos`: half of them the best and half the worst by the figure `by` (default: CIDEr) of its first evaluation. `own_parts` lets a
    dataset be opened by a part that is not capdec's: code.

    Raises DataError where a folder holds no evaluation or a damaged one, SettingError where not every image has the figure `by`.
    """
    paths = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    if not paths:
        raise SettingError("a report is of one evaluation or of several: name the folders that `capdec evaluate` wrote.")
    found: dict[str, list[Evaluation]] = {}
    for path, name in zip(paths, _names(paths), strict=True):
        one = _read(path, name)
        found.setdefault(one.digest, []).append(one)
    sets = list(found.values())
    figures = [_by(some[0], by) for some in sets]
    reasons: list[str] = []
    with replacing(Path(output) / "report.html") as page, replacing(Path(output) / "report.md") as table:
        table.write_text(_markdown(sets), encoding="utf-8", errors="replace", newline="\n")
        with page.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(_page(sets, figures, photos, own_parts, reasons))
    return reasons


def _names(paths: Sequence[Path]) -> list[str]:
    """Each folder's name, with as many of its parents' as tell it from the others."""
    names = []
    for path in paths:
        parts = 2 if path.name == "evaluation" else 1
        while parts < len(path.parts) and sum(other.parts[-parts:] == path.parts[-parts:] for other in paths) > 1:
            parts += 1
        names.append(Path(*path.parts[-parts:]).as_posix())
    return names


def _read(folder: Path, name: str) -> Evaluation:
    photos = scoring.read_rows(folder)
    try:
        scores, manifest = (json.loads((folder / file).read_text(encoding="utf-8")) for file in ("scores.json", "manifest.json"))
        given = scores["supervision"]
        rows = [Row(system, int(scores["n"]), _figures(found), str(given[system])) for system, found in scores["systems"].items()]
        for group, found in scores.get("groups", {}).items():
            rows.append(Row(f"itself, {group}", int(found.pop("n")), _figures(found), str(given["itself"])))
        return Evaluation(
            name,
            scoring.digest({row["image_id"]: row["references"] for row in photos}),
            rows,
            {row["image_id"]: _photo(row) for row in photos},
            frozenset(name for name, figure in _figures(scores["systems"]["itself"]).items() if figure.star),
            _facts(manifest),
            int(manifest["dataset"].get("left_out", 0)),
            manifest["dataset"].get("opened"),
        )
    except OSError as error:
        raise DataError(f"{folder} holds half an evaluation: {error.filename} cannot be read ({error.strerror}). Evaluate again.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder} holds a damaged evaluation ({brief(error)}). Copy it again, or evaluate again.") from error


def _figures(found: dict[str, dict[str, Any]]) -> dict[str, Figure]:
    def number(value: Any) -> float | None:
        return None if value is None else float(value)

    return {
        name: Figure(number(one.get("value")), number(one.get("low")), number(one.get("high")), str(one.get("note", "")))
        for name, one in found.items()
    }


def _photo(row: dict[str, Any]) -> Photo:
    def said(one: dict[str, Any]) -> Said:
        names = sorted(one["figures"], key=lambda name: ON_A_CARD.index(name) if name in ON_A_CARD else len(ON_A_CARD))
        return Said(str(one["caption"]), {name: float(one["figures"][name]) for name in names if math.isfinite(one["figures"][name])})

    others = {system: said(one) for system, one in row.get("others", {}).items()}
    return Photo(said(row), others, tuple(row["references"]), str(row.get("group", "")))


def _facts(manifest: dict[str, Any]) -> dict[str, str]:
    """What was scored, by what and on what. Of files only the names: a report is shown around."""
    dataset, captioner, judge, memory = manifest["dataset"], manifest["captioner"], manifest["judge"], manifest.get("memory")
    recipe, decoding = captioner.get("recipe") or {}, dict(manifest["decoding"])
    strategy, training = decoding.pop("strategy"), recipe.get("training", {})
    only = {"beams": "beam", "top_p": "nucleus", "temperature": "nucleus", "seed": "nucleus"}
    facts = {
        "dataset": _text_of(dataset.get("name"), dataset.get("opened")),
        "split": dataset.get("split"),
        "photos": f"{dataset['n']:,}" + (f"; {dataset['left_out']:,} of the split left out" if dataset.get("left_out") else ""),
        "references": f"{dataset['references']:,}",
        "digest of ids and references": dataset["digest"],
        "captioner": captioner.get("fingerprint"),
        "trained on": _text_of(", ".join(captioner.get("text", ())), recipe.get("captions")),
        "training": _settings({key: training[key] for key in ("steps", "batch", "learning_rate", "dtype", "seed") if key in training}),
        "bridges": ", ".join(_part(spec) for spec in captioner.get("bridges", ())) or "none",
        "decoder": _part(captioner.get("decoder", UNKNOWN)),
        "backbone": manifest.get("backbone"),
        "judge": judge["fingerprint"] + (", the captioner's own backbone" if judge["is_own_backbone"] else "") if judge else "none",
        "decoding": f"{strategy}: {_settings({key: value for key, value in decoding.items() if only.get(key, strategy) == strategy})}",
        "memory": f"{_text_of(memory['name'], memory.get('opened'))}: {memory['captions']:,} captions" if memory else "none",
        "language": manifest.get("language", "en"),
        "tokens": manifest.get("tokens"),
        "intervals": _settings(manifest.get("bootstrap", {})),
        "capdec": f"{manifest['capdec']}, commit {manifest.get('commit') or UNKNOWN}",
        "seed": manifest.get("seed"),
        "time": manifest.get("time"),
        "seconds": manifest.get("seconds"),
    }
    return {fact: UNKNOWN if value in (None, "") else str(value) for fact, value in facts.items()}


def _text_of(name: str | None, opened: Any) -> str:
    path = opened.get("path") if isinstance(opened, dict) else opened
    file = Path(path).name if isinstance(path, str) else ""
    return f"{name} ({file})" if name and file else name or file or UNKNOWN


def _part(spec: str | dict[str, Any]) -> str:
    settings = _settings({key: value for key, value in spec.items() if key != "name"}) if isinstance(spec, dict) else ""
    name = str(spec["name"] if isinstance(spec, dict) else spec)
    return f"{name} ({settings})" if settings else name


def _settings(table: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in table.items())


def _by(first: Evaluation, wanted: str | None) -> str:
    """The figure that says which photos are best: one that each of them has."""
    figures = [photo.itself.figures for photo in first.photos.values()]
    common = [name for name in figures[0] if all(name in one for one in figures)]
    if not common or (wanted and wanted not in common):
        raise SettingError(f"the photos of {first.name} have no figure {wanted or 'to sort them by'}. They have: {', '.join(common) or 'none'}.")
    return wanted or ("CIDEr" if "CIDEr" in common else common[0])


def _better(figure: str) -> str:
    return "lower" if figure in LOWER_IS_BETTER else "neither" if figure in NEITHER_IS_BETTER else "higher"


def _best_and_worst(first: Evaluation, by: str, photos: int) -> tuple[list[str], list[str]]:
    """Ids of half of the photos each, best first and worst first; none is in both."""
    sign = 1 if _better(by) == "lower" else -1
    ranked = sorted(first.photos, key=lambda key: sign * first.photos[key].itself.figures[by])
    shown = min(photos, len(ranked))
    return ranked[: (shown + 1) // 2], ranked[len(ranked) - shown // 2 :][::-1]


def _heading(sets: Sequence[list[Evaluation]]) -> str:
    names = [one.name for some in sets for one in some]
    return f"Report of {', '.join(names) if len(names) <= 3 else f'{len(names)} evaluations'}"


def _warning(sets: Sequence[list[Evaluation]]) -> str:
    different = f"These evaluations are of {len(sets)} different sets of images and references"
    return f"{different}: the figures of one set do not compare with those of another." if len(sets) > 1 else ""


def _title(some: Sequence[Evaluation]) -> str:
    facts = some[0].facts
    return f"{facts['dataset']}{'' if facts['split'] == UNKNOWN else ', ' + facts['split']}: {len(some[0].photos):,} photos"


def _columns(some: Sequence[Evaluation]) -> list[str]:
    """The figures that at least one system has."""
    known = {name for one in some for row in one.rows for name, figure in row.figures.items() if figure.value is not None}
    return [name for name in _figure_names(some) if name in known]


def _figure_names(some: Sequence[Evaluation]) -> list[str]:
    """Of the figures that belong into a table, computed or not."""
    others = dict.fromkeys(name for one in some for row in one.rows for name in row.figures if name not in (*COLUMNS, *NO_COLUMNS))
    return [*COLUMNS, *others]


def _notes(some: Sequence[Evaluation]) -> list[str]:
    """What stands below a table: why a figure is missing or marked, what was left out, and what the words mean."""
    rows = [row for one in some for row in one.rows]
    noted: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        for name in _figure_names(some):
            if name in row.figures and row.figures[name].note:
                names, systems = noted.setdefault((row.figures[name].star, row.figures[name].note), ({}, {}))
                names[name] = systems[row.system] = None
    notes = []
    for (star, note), (names, systems) in noted.items():
        of = f" of {', '.join(systems)}" if not star and len(systems) < len({row.system for row in rows}) else ""
        notes.append(f"{star} {', '.join(names)}{of}: {note}".strip())
    for one in some:
        absent = [name for name in _columns(some) if all(name not in row.figures for row in one.rows)]
        notes += [f"{', '.join(absent)} of {one.name}: not asked for"] if absent else []
    part = "photos of the split were left out, so its figures do not compare with those of the whole"
    notes += [f"of {one.name}, {one.left_out:,} {part}" for one in some if one.left_out]
    notes.append(f"in brackets: {bootstrap.LEVEL} % intervals, by a bootstrap over images")
    words = {*_columns(some), *(row.system for row in rows)}
    return notes + [f"{word}: {meaning}" for word, meaning in MEANINGS.items() if word in words]


def _markdown(sets: Sequence[list[Evaluation]]) -> str:
    lines = [f"# {_plain(_heading(sets))}", "", *((f"**{_warning(sets)}**", "") if _warning(sets) else ())]
    for some in sets:
        columns = _columns(some)
        lines += [f"## {_plain(_title(some))}", "", _line("evaluation", "system", "supervision", "n", *map(_plain, columns))]
        lines.append(_line("---", "---", "---", "---:", *("---:" for _ in columns)))
        for one in some:
            for row in one.rows:
                figures = [row.figures.get(name, Figure()) for name in columns]
                cells = [f"{figure.shown} {figure.interval}".strip().replace("*", r"\*") for figure in figures]
                lines.append(_line(_plain(one.name), _plain(row.system), _plain(row.supervision), f"{row.n:,}", *cells))
        lines += ["", *(f"- {_plain(note)}" for note in _notes(some)), ""]
        lines += [_line("how it was made", *(_plain(one.name) for one in some)), _line("---", *("---" for _ in some))]
        lines += [_line(fact, *(_plain(one.facts[fact]) for one in some)) for fact in some[0].facts]
        lines.append("")
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Markdown that shows the text as it is, on one line."""
    return re.sub(r"[\\`*_\[\]<>|~&$#]", r"\\\g<0>", " ".join(text.split()))


def _page(sets: Sequence[list[Evaluation]], figures: Sequence[str], photos: int, own_parts: bool, reasons: list[str]) -> Iterator[str]:
    script, style = ((resources.files("capdec") / f"report.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    yield head(_heading(sets), style, f"; script-src 'sha256-{allowed}'")
    warning = f'<p class="warning">{_warning(sets)}</p>\n' if _warning(sets) else ""
    yield f"<header>\n<h1>{escape(_heading(sets))}</h1>\n<p>{ABOUT}</p>\n{warning}</header>\n<main>\n"
    for number, (some, by) in enumerate(zip(sets, figures, strict=True), 1):
        yield f'<section class="set">\n<h2>{escape(_title(some))}</h2>\n{_table(some)}<ul class="notes">\n'
        yield "".join(f"<li>{escape(note)}</li>\n" for note in _notes(some)) + f'<li><a href="#made-{number}">How it was made</a></li>\n</ul>\n'
        yield from _shown(some, by, photos, own_parts, reasons)
        yield f'<h3 id="made-{number}">How it was made</h3>\n{_facts_table(some)}</section>\n'
    yield f"</main>\n<footer>\n<p>Written by capdec {capdec.__version__}.</p>\n</footer>\n<script>{script}</script>\n</body>\n</html>\n"


def _table(some: Sequence[Evaluation]) -> str:
    columns = _columns(some)
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("n", *columns))
    lines = [f'<thead><tr><th scope="col">system</th><th scope="col" class="words">supervision</th>{heads}</tr></thead>']
    for one in some:
        name = f'<tr class="name"><th scope="rowgroup" colspan="{len(columns) + 3}"><bdi>{escape(one.name)}</bdi></th></tr>'
        lines.append("<tbody>" + (name if len(some) > 1 else ""))
        for row in one.rows:
            figures = [row.figures.get(name, Figure()) for name in columns]
            cells = "".join(f"<td>{figure.shown}<small>{figure.interval}</small></td>" for figure in figures)
            system = f'<tr class="{"itself" if row.system == "itself" else "other"}"><th scope="row">{escape(row.system)}</th>'
            lines.append(f'{system}<td class="words">{escape(row.supervision)}</td><td>{row.n:,}</td>{cells}</tr>')
        lines.append("</tbody>")
    return _scrolled("Figures of the systems", lines)


def _facts_table(some: Sequence[Evaluation]) -> str:
    names = "".join(f'<th scope="col" class="words"><bdi>{escape(one.name)}</bdi></th>' for one in some)
    lines = [f"<thead><tr><td></td>{names}</tr></thead>", "<tbody>"]
    for fact in some[0].facts:
        cells = "".join(f'<td class="words">{escape(one.facts[fact])}</td>' for one in some)
        lines.append(f'<tr><th scope="row">{fact}</th>{cells}</tr>')
    return _scrolled("How it was made", [*lines, "</tbody>"])


def _scrolled(label: str, lines: Sequence[str]) -> str:
    table = "\n".join(["<table>", *lines, "</table>"])
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">\n{table}\n</div>\n'


def _shown(some: Sequence[Evaluation], by: str, photos: int, own_parts: bool, reasons: list[str]) -> Iterator[str]:
    """How many of the photos are shown, the controls, and the cards."""
    best, worst = _best_and_worst(some[0], by, photos)
    total, of = len(some[0].photos), f" of {some[0].name}" if len(some) > 1 else ""
    if len(best) + len(worst) < total:
        what = f"{len(best) + len(worst):,} of the {total:,} photos are shown: the {len(best):,} best and the {len(worst):,} worst by {by}{of}."
    else:
        what = f"All {total:,} photos are shown."
    yield f'<p class="shown">{escape(what)}</p>\n'
    openers, why = _openers(some, own_parts) if best else ({}, "")
    if why:
        reasons.append(why)
        yield f'<p class="shown error"><strong>No pictures:</strong> {escape(why)}</p>\n'
    yield _controls(some, by) if best else ""
    for word, ids in zip(("Highest", "Lowest") if _better(by) == "neither" else ("Best", "Worst"), (best, worst), strict=True):
        if ids:
            yield f'<div class="half">\n<h3>{word} by {escape(by + of)}</h3>\n<div class="cards">\n'
            for key in ids:
                yield _card(key, some, by, openers, reasons)
            yield "</div>\n</div>\n"


def _openers(some: Sequence[Evaluation], own_parts: bool) -> "tuple[dict[str, Callable[[], PIL.Image.Image]], str]":
    """What opens the photos, and why nothing does. A photo counts as the one that was scored where the same references stand beside it."""
    why, photos = "", some[0].photos
    for one in some:
        try:
            if not isinstance(one.opened, str | dict):
                raise DataError(f"the manifest of {one.name} does not say which dataset it was.")
            part = one.opened.get("name") if isinstance(one.opened, dict) else None
            if isinstance(part, str) and ":" in part and not own_parts:
                raise SettingError(f"{one.name} has its photos from {part}, which is no part of capdec's. If you trust it, allow it: --own-parts.")
            openers = {}
            for example in open_dataset(one.opened):
                key, opener = example.image_id, example.open_image
                if key in photos and opener is not None and example.captions == photos[key].references:
                    openers[key] = opener
            if openers:
                return openers, ""
            raise DataError(f"the dataset of {one.name} has none of these photos any more, or other references of them.")
        except (CapdecError, OSError, ValueError, TypeError) as error:
            path = one.opened.get("path", "") if isinstance(one.opened, dict) else one.opened
            here = isinstance(path, str) and path and not Path(path).is_absolute()
            hint = " The evaluation named it from the folder where it ran: make the report there." if here else ""
            why = why or " ".join(str(error).split()) + hint
    return {}, why


def _controls(some: Sequence[Evaluation], by: str) -> str:
    names = dict.fromkeys(name for one in some for photo in one.photos.values() for name in photo.itself.figures)
    figures = "".join(f'<option data-better="{_better(name)}"{" selected" if name == by else ""}>{escape(name)}</option>' for name in names)
    sides = [(str(place), one.name) for place, one in enumerate(some)]
    sides += [(f"{place}-0", f"{one.name} minus {some[0].name}") for place, one in enumerate(some) if place]
    options = "".join(f'<option value="{value}">{escape(name)}</option>' for value, name in sides)
    return "\n".join(
        [
            '<div class="sorting" role="group" aria-label="Sort and filter the photos" hidden>',
            f'<label>Sort by <select name="figure">{figures}</select></label>',
            *([f'<label>of <select name="of">{options}</select></label>'] if len(some) > 1 else []),
            '<span><button type="button" data-order="best">Best first</button><button type="button" data-order="worst">Worst first</button></span>',
            '<label>With <input type="search" placeholder="words in captions or references" autocomplete="off"></label>',
            '<output aria-live="polite"></output>\n</div>\n',
        ]
    )


def _card(key: str, some: Sequence[Evaluation], by: str, openers: "dict[str, Callable[[], PIL.Image.Image]]", reasons: list[str]) -> str:
    photo, image, error = some[0].photos[key], None, ""
    if key in openers:
        try:
            image = openers[key]()
        except (ImageError, OSError) as failure:
            error = " ".join(str(failure).split())
    elif openers:
        error = f"{key} is not in the dataset any more, or with other references."
    reasons += [error] if error else []
    lines = ["<figure>", picture(image, photo.references[0] if photo.references else ""), "<figcaption>"]
    lines += [f'<p class="error"><strong>No picture:</strong> {escape(error)}</p>'] if error else []
    for one in some:
        said = one.photos[key].itself
        lines += [f'<p class="label"><bdi>{escape(one.name)}</bdi></p>'] if len(some) > 1 else []
        lines.append(f'<p class="caption" dir="auto">{escape(said.caption) or "<i>an empty caption</i>"}</p>')
        terms = (_term(name, value, "*" if name in one.starred else "", by) for name, value in said.figures.items())
        lines.append(f'<dl class="figures">{"".join(terms)}</dl>')
    written = "".join(f'<li><span dir="auto">{escape(text)}</span></li>\n' for text in photo.references)
    lines.append(f'<p class="label">Written by people</p>\n<ul class="references">\n{written}</ul>')
    others: dict[str, dict[str, Said]] = {}
    for one in some:
        for system, said in one.photos[key].others.items():
            others.setdefault(system, {}).setdefault(said.caption, said)
    if others:
        lines.append(f"<details><summary>Other systems, with {escape(by)}</summary>\n<ul>")
        for system, said in ((system, said) for system, captions in others.items() for said in captions.values()):
            figure = _data(by, said.figures[by]) if by in said.figures else ""
            lines.append(f'<li><span><b>{escape(system)}</b> <span dir="auto">{escape(said.caption)}</span></span> {figure}</li>')
        lines.append("</ul></details>")
    group = f"<span>{escape(photo.group)}</span>" if photo.group else ""
    lines.append(f'<p class="source"><bdi>{escape(key)}</bdi>{group}</p>\n</figcaption>\n</figure>\n')
    return "\n".join(lines)


def _term(name: str, value: float, star: str, by: str) -> str:
    """A figure on a card. Those that are seldom looked at wait there until the cards are sorted by them."""
    kind = ' class="by"' if name == by else ""
    waits = "" if name in ON_A_CARD else " data-waits" if name == by else " data-waits hidden"
    return f"<div{kind}{waits}><dt>{escape(name)}</dt><dd>{_data(name, value)}{star}</dd></div>"


def _data(name: str, value: float) -> str:
    shown = ("yes" if value else "no") if name in YES_OR_NO else f"{value:.1f}"
    return f'<data value="{value:g}">{shown}</data>'
