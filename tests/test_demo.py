"""The demonstration with a tiny captioner, whose captions mean nothing but are there."""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from capdec import demo as module
from capdec.backbones.mini import Mini
from capdec.bridges.gaussian_noise import GaussianNoise
from capdec.captioner import Captioner
from capdec.decoders.small_transformer import SmallTransformer
from capdec.demo import ABOUT, PHOTOS, demo
from capdec.errors import MissingExtra, SettingError
from capdec.images import open_image
from capdec.protocols import Decoding

DECODING = Decoding(beams=2, captions=2, max_tokens=8)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    torch.manual_seed(0)
    decoder = SmallTransformer.tiny(folder)
    decoder.fit(["a man rides a horse", "two dogs run over the grass"] * 4)
    return Captioner(Mini.tiny(folder), [GaussianNoise.tiny(folder)], decoder.eval(), spec={}, decoding=DECODING)


def save_photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path, "PNG")


def test_a_folder_is_captioned_with_its_broken_photos_and_hostile_names(captioner, tmp_path, capsys):
    photos = tmp_path / "photos"
    save_photo(photos / "one.png", 1)
    save_photo(photos / "below" / "<script>alert(1)<.png", 2)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    (photos / "notes.txt").write_text("no photo")
    entries = demo(captioner, str(photos), tmp_path / "out" / "page.html")

    assert {entry.name for entry in entries} == {"one.png", "below/<script>alert(1)<.png", "broken.jpg"}
    for entry in entries:
        assert (entry.caption is None) == (entry.error is not None) == (entry.name == "broken.jpg")
        assert entry.image is None, "pictures do not stay in memory"
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "://" not in page
    assert page.count("<img ") == 2 and "2 photos captioned by capdec, 1 failed" in page and "photos</h1>" in page
    assert capsys.readouterr() == ("", "")


def test_captions_are_those_of_one_call_however_many_photos_there_are(captioner, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    for index in range(3):
        save_photo(tmp_path / "photos" / f"{index}.png", index)
    (tmp_path / "photos" / "1a.png").write_bytes(b"broken")
    paths = [tmp_path / "photos" / f"{index}.png" for index in range(3)]
    for decoding in (None, Decoding(strategy="nucleus", captions=2, max_tokens=6, seed=3)):
        entries = demo(captioner, tmp_path / "photos", tmp_path / "page.html", decoding)
        expected = captioner.caption(paths, decoding)
        assert [entry.caption.text for entry in entries if entry.caption] == [caption.text for caption in expected]
        assert all(len(entry.caption.alternatives) == 1 for entry in entries if entry.caption)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_without_a_folder_the_photos_inside_scikit_image_are_captioned(captioner, tmp_path):
    entries = demo(captioner, None, tmp_path / "page.html", replace(DECODING, max_tokens=4))
    assert [entry.name for entry in entries] == list(PHOTOS)
    assert all(entry.caption for entry in entries)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<img ") == len(PHOTOS) and "scikit-image" in page and ABOUT.split(":")[0] in page


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_the_photos_inside_scikit_image_can_be_opened():
    for path in module._bundled().values():
        assert min(open_image(path).size) >= 300


def test_without_scikit_image_the_error_names_the_extra(captioner, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtra, match=r"capdec\[demo\]"):
        demo(captioner, None, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_folder_that_is_none_or_empty_is_an_error_and_no_page(captioner, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, complaint in (("missing", "is not a folder"), ("empty", "no photo was found")):
        with pytest.raises(SettingError, match=complaint):
            demo(captioner, str(tmp_path / folder), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["-", "[a]*", "http:"])
def test_a_folder_may_be_called_anything(captioner, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save_photo(Path(name) / "one.png", 1)
    entries = demo(captioner, name, "page.html", replace(DECODING, max_tokens=3))
    assert [entry.name for entry in entries] == ["one.png"] and entries[0].caption


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_photo_whose_name_is_not_unicode_is_captioned(captioner, tmp_path):
    save_photo(tmp_path / "photos" / os.fsdecode(b"caf\xe9.png"), 1)
    entries = demo(captioner, tmp_path / "photos", tmp_path / "page.html", replace(DECODING, max_tokens=3))
    assert entries[0].caption and "caf?.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_another_captioner_brings_its_own_words(captioner, tmp_path):
    save_photo(tmp_path / "photos" / "one.png", 1)
    demo(captioner, tmp_path / "photos", tmp_path / "page.html", replace(DECODING, max_tokens=3), about="Trained on poems.")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Trained on poems." in page and ABOUT not in page
