"""A page of captioned photos: one HTML file that holds everything it shows, so that it can be opened offline, mailed or archived.

Photos are embedded small, without their metadata. Nothing is loaded from elsewhere and nothing runs; the page's own policy forbids both. The page is
written entry by entry, so only one photo is in memory at a time. What is not known: the language of captions; the page says it is English.
"""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from capdec.errors import SettingError

if TYPE_CHECKING:
    from PIL.Image import Image

    from capdec.protocols import Caption

LONGEST_SIDE = 480  # pixels of an embedded photo
QUALITY = 82  # of its JPEG


@dataclass(frozen=True)
class Entry:
    """One photo: what it is called, and its caption or the reason why there is none. `references` are what people wrote about it."""

    name: str
    image: "Image | None" = None
    caption: "Caption | None" = None
    error: str | None = None
    references: tuple[str, ...] = ()


def write_gallery(path: str | Path, title: str, entries: Iterable[Entry], about: str) -> None:
    """Writes the page, whole or not at all. `about` stands under the title; a blank line in it starts a paragraph.

    Raises SettingError where `path` is a folder, before the first entry is asked for.
    """
    from capdec.checkpoint import replacing  # brings torch

    if Path(path).is_dir():
        raise SettingError(f"{path} is a folder; the page is one file. Give a name in it, such as {Path(path) / 'gallery.html'}.")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as page:  # names need not be Unicode
        page.writelines(_page(title, entries, about))


def head(title: str, style: str = "", policy: str = "") -> str:
    """A page's beginning, up to its body. `style` and `policy` are what it needs beside the gallery's own."""
    template = HEAD.replace("POLICY", POLICY + policy).replace("STYLE", STYLE + style)
    return template.replace("TITLE", escape(title))  # what was typed in comes last


def _page(title: str, entries: Iterable[Entry], about: str) -> Iterator[str]:
    paragraphs = "".join(f"<p>{escape(' '.join(part.split()))}</p>\n" for part in about.split("\n\n") if part.strip())
    yield head(title)
    yield f'<header>\n<h1>{escape(title)}</h1>\n{paragraphs}</header>\n<main class="cards">\n'
    captioned = failed = 0
    judged = False
    for entry in entries:
        judged = judged or (entry.caption is not None and entry.caption.confidence is not None)
        captioned, failed = captioned + (entry.caption is not None), failed + (entry.error is not None)
        yield _figure(entry)
    if not captioned + failed:
        yield '<p class="empty">There are no photos here.</p>\n'
    count = f"{captioned:,} {'photo' if captioned == 1 else 'photos'} captioned by capdec" + (f", {failed:,} failed" if failed else "")
    yield f"</main>\n<footer>\n<p>{count}. {SCORES}{SURE * judged}</p>\n</footer>\n</body>\n</html>\n"


def _figure(entry: Entry) -> str:
    caption = entry.caption
    lines = ["<figure>" if entry.error is None else '<figure class="failed">']
    if entry.image is not None or entry.error is not None:
        lines.append(picture(entry.image, caption.text if caption else "A photo without a caption"))
    lines.append("<figcaption>")
    if caption is not None:
        lines.append(f'<p class="caption" dir="auto">{escape(caption.text) or "<i>an empty caption</i>"}</p>')
    if entry.error is not None:
        lines.append(f'<p class="error"><strong>No caption:</strong> {escape(entry.error)}</p>')
    score = f"<span>score {_score(caption)}{_sure(caption)}</span>" if caption is not None else ""
    lines.append(f'<p class="source"><bdi>{escape(entry.name)}</bdi>{score}</p>')
    if caption is not None and caption.alternatives:
        others = "".join(f'<li><span dir="auto">{escape(other.text)}</span> {_score(other)}</li>\n' for other in caption.alternatives)
        lines.append(f'<p class="label">Other captions</p>\n<ul>\n{others}</ul>')
    if entry.references:
        written = "".join(f'<li><span dir="auto">{escape(reference)}</span></li>\n' for reference in entry.references)
        lines.append(f'<p class="label">Written by people</p>\n<ul>\n{written}</ul>')
    lines.append("</figcaption>\n</figure>\n")
    return "\n".join(lines)


def _score(caption: "Caption") -> str:
    shown = f"{caption.score:.2f}".replace("-", "−")
    return f'<data value="{caption.score:.4f}">{shown}</data>'


def _sure(caption: "Caption") -> str:
    return "" if caption.confidence is None else f", {caption.confidence:.0%}{', unsure' if caption.unsure else ''}"


def picture(image: "Image | None", alternative: str) -> str:
    """The photo, embedded small and without its metadata, or a place that says there is none."""
    if image is None:
        return '<div class="photo" aria-hidden="true">no picture</div>'
    small = image.convert("RGB")  # a copy
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), reducing_gap=3.0)
    small.info = {}
    content = io.BytesIO()
    small.save(content, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    data = base64.b64encode(content.getvalue()).decode()
    size = f'width="{small.width}" height="{small.height}"'
    return f'<div class="photo"><img src="data:image/jpeg;base64,{data}" alt="{escape(alternative)}" {size} decoding="async"></div>'


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

SCORES = "A score is the caption's log-probability in nats, adjusted for its length: nearer to 0 means surer, not truer."
SURE = " A percentage is how probable it is that everything named is there."

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="POLICY">
<link rel="icon" href="data:,">
<title>TITLE</title>
<style>
STYLE</style>
</head>
<body>
"""

STYLE = """:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ground: #ebe9e4; --line: #dedbd4;
  --text: #1d1c1a; --quiet: #5f5c56; --accent: #9a3b12; --shadow: 0 1px 2px #0000000f, 0 6px 20px #0000000d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #151413; --card: #201f1d; --ground: #121110; --line: #35332f;
    --text: #f1efeb; --quiet: #aaa69e; --accent: #f2a07b; --shadow: none;
  }
}
* { box-sizing: border-box; margin: 0; }
body {
  background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  max-width: 84rem; margin: 0 auto; padding: clamp(1.5rem, 5vw, 4rem) clamp(1rem, 4vw, 3rem) 2rem;
  overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; text-size-adjust: 100%;
}
header { max-width: 44rem; margin-bottom: clamp(1.5rem, 4vw, 3rem); }
h1 { font-size: clamp(1.75rem, 1.3rem + 2vw, 2.6rem); line-height: 1.15; letter-spacing: -0.02em; text-wrap: balance; }
header p { color: var(--quiet); margin-top: 0.85rem; text-wrap: pretty; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: clamp(1rem, 2vw, 1.75rem); }
figure {
  display: flex; flex-direction: column; overflow: hidden;
  background: var(--card); border: 1px solid var(--line); border-radius: 0.9rem; box-shadow: var(--shadow);
  break-inside: avoid;
}
.photo {
  position: relative; display: grid; place-items: center; aspect-ratio: 4 / 3;
  background: var(--ground); color: var(--quiet); font-size: 0.875rem;
}
img { position: absolute; inset: 0; margin: auto; width: auto; height: auto; max-width: 100%; max-height: 100%; padding: 0.75rem; }
figcaption { padding: 1.1rem 1.25rem 1rem; }
.caption { font-size: 1.2rem; font-weight: 600; line-height: 1.35; letter-spacing: -0.005em; text-wrap: pretty; }
.error { line-height: 1.45; }
.error strong { color: var(--accent); }
.label { color: var(--quiet); font-size: 0.8125rem; font-weight: 600; margin-top: 1rem; }
ul { list-style: none; padding: 0; }
li {
  display: flex; justify-content: space-between; align-items: baseline; gap: 1rem;
  padding: 0.4rem 0; border-bottom: 1px solid var(--line); font-size: 0.9375rem; line-height: 1.4;
}
li:last-child { border-bottom: 0; }
li span { min-width: 0; }
data { color: var(--quiet); font-size: 0.8125rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.source {
  display: flex; justify-content: space-between; align-items: baseline; gap: 1rem;
  color: var(--quiet); font-size: 0.8125rem; margin-top: 0.5rem;
}
.source bdi { min-width: 0; }
.source span { white-space: nowrap; }
.empty { color: var(--quiet); grid-column: 1 / -1; }
footer { color: var(--quiet); font-size: 0.875rem; margin-top: clamp(2rem, 5vw, 3.5rem); padding-top: 1.25rem; border-top: 1px solid var(--line); }
footer p { max-width: 44rem; }
@media print { body { max-width: none; padding: 0; } figure { box-shadow: none; } }
"""
