"""The page holds everything it shows, is safe whatever photos and captions are called, and is there whole or not at all."""

import base64
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from capdec.errors import SettingError
from capdec.gallery import LONGEST_SIDE, STYLE, Entry, write_gallery
from capdec.protocols import Caption

HOSTILE = "<script>alert(1)</script> \" onerror='x' & &amp; </figure>"
VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, the text, and whether what is opened is closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def says(self, words):
        return words in "\n".join(self.text)


def photo(width=40, height=30, mode="RGB"):
    return Image.new(mode, (width, height))


def page_of(tmp_path, *entries, title="Photos", about="About them."):
    write_gallery(tmp_path / "page.html", title, iter(entries), about)
    return Page(tmp_path / "page.html")


def test_an_entry_shows_its_photo_caption_score_alternatives_references_and_name(tmp_path):
    others = (Caption("a man on a horse", -1.5), Caption("a horse", -2.25))
    page = page_of(tmp_path, Entry("a/photo.jpg", photo(), Caption("a man rides a horse", -0.75, (), others), references=("A rider.",)))
    for words in ("a man rides a horse", "−0.75", "a man on a horse", "−1.50", "a horse", "−2.25", "A rider.", "a/photo.jpg", "About them."):
        assert page.says(words), words
    assert page.all("img")[0]["alt"] == "a man rides a horse"
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("figure")) == len(page.all("figcaption")) == 1 and len(page.all("li")) == 3
    assert page.says("1 photo captioned by capdec.")


def test_an_entry_says_how_sure_its_caption_is_where_that_is_known(tmp_path):
    sure, unsure = Caption("a dog", -1.0, confidence=0.4), Caption("a cat", -2.0, confidence=0.021, unsure=True)
    page = page_of(tmp_path, Entry("dog.jpg", photo(), sure), Entry("cat.jpg", photo(), unsure))
    assert page.says(", 40%") and page.says(", 2%, unsure") and page.says("everything named is there")
    assert not page_of(tmp_path, Entry("dog.jpg", photo(), Caption("a dog", -1.0))).says("%")


def test_a_photo_that_failed_shows_its_error_instead(tmp_path):
    page = page_of(tmp_path, Entry("broken.jpg", error="broken.jpg is empty."), Entry("good.jpg", photo(), Caption("a dog", -1.0)))
    assert page.says("broken.jpg is empty.") and len(page.all("img")) == 1
    assert page.says("1 photo captioned by capdec, 1 failed")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_photos_of_any_mode_are_embedded_small_upright_and_without_metadata(tmp_path, mode):
    large = photo(960, 1440, mode)
    large.info = {"comment": b"taken at home", "exif": b"Exif\0\0secret"}
    page = page_of(tmp_path, Entry("large", large, Caption("a dog", -1.0)))
    kind, _, data = page.all("img")[0]["src"].partition(",")
    content = base64.b64decode(data)
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(content)).size == (LONGEST_SIDE * 960 // 1440, LONGEST_SIDE)
    assert b"home" not in content and b"secret" not in content
    assert large.size == (960, 1440), "the caller's photo is as it was"


def test_hostile_names_captions_errors_and_titles_stay_text(tmp_path):
    caption = Caption(HOSTILE, -1.0, (), (Caption(HOSTILE, -2.0),))
    entries = Entry(HOSTILE, photo(), caption, references=(HOSTILE,)), Entry(HOSTILE, error=HOSTILE)
    page = page_of(tmp_path, *entries, title=HOSTILE, about=HOSTILE)
    assert not page.all("script") and page.source.count("&lt;script&gt;") == 10
    assert {name for _, attributes in page.tags for name in attributes if name.startswith("on")} == set()
    assert page.all("img")[0]["alt"] == HOSTILE


def test_a_title_that_names_the_templates_own_words_is_shown_as_it_is(tmp_path):
    page = page_of(tmp_path, title="STYLE and TITLE")
    assert page.says("STYLE and TITLE") and page.source.count("--page: #f6f5f2") == 1


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(tmp_path):
    page = page_of(tmp_path, Entry("photo.jpg", photo(), Caption("a dog", -1.0)))
    assert "://" not in page.source and "@import" not in page.source and "url(" not in page.source
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert not page.all("script")
    assert "default-src 'none'" in page.source


def test_a_name_that_is_not_unicode_and_a_caption_of_any_script_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    page = page_of(tmp_path, Entry(name, photo(), Caption("كلب يجري 🐕 naïve", -1.0)), Entry("empty", photo(), Caption("", 0.0)))
    assert page.says("caf?.jpg") and page.says("كلب يجري 🐕 naïve") and page.says("an empty caption")


def test_a_page_without_photos_says_so(tmp_path):
    assert page_of(tmp_path).says("There are no photos here.")


def test_entries_are_asked_for_one_at_a_time_and_a_failure_leaves_the_old_page(tmp_path):
    path = tmp_path / "new" / "page.html"
    write_gallery(path, "Old", [], "")
    old = path.read_text()

    def failing():
        yield Entry("photo.jpg", photo(), Caption("a dog", -1.0))
        raise RuntimeError("the model fails")

    with pytest.raises(RuntimeError, match="the model fails"):
        write_gallery(path, "New", failing(), "")
    assert path.read_text() == old and [*path.parent.iterdir()] == [path]


def test_a_folder_is_refused_before_any_entry_is_asked_for(tmp_path):
    def unasked():
        raise AssertionError
        yield

    with pytest.raises(SettingError, match=r"gallery\.html"):
        write_gallery(tmp_path, "Photos", unasked(), "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_aa_asks_for(scheme):
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})\b", {"light": light, "dark": dark[: dark.index("* {")]}[scheme]))

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for text in ("text", "quiet", "accent"):
        for ground in ("page", "card", "ground"):
            darker, lighter = sorted((luminance(colours[text]), luminance(colours[ground])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground)


def test_importing_the_gallery_brings_neither_torch_nor_pillow():
    code = "import sys, capdec.gallery; print([name for name in ('torch', 'PIL', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
