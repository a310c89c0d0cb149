import numpy as np
import pytest
from PIL import Image

from capdec.metrics.clip_score import ClipScore
from capdec.protocols import Predictions

COLOURS = ("red", "green", "blue")
OPENERS = {colour: lambda colour=colour: Image.new("RGB", (4, 4), {"green": "lime"}.get(colour, colour)) for colour in COLOURS}
REFERENCES = {colour: [f"a {colour} wall", f"{colour} {colour}"] for colour in COLOURS}


@pytest.fixture
def judged(tmp_path):
    metric = ClipScore.tiny(tmp_path)
    metric.prompt = ""
    return lambda captions, **more: metric.score(Predictions(captions, REFERENCES, OPENERS, **more))


def test_a_caption_of_its_photo_scores_full_and_finds_it(judged):
    found = judged({colour: f"{colour} {colour}" for colour in COLOURS})
    assert found["CLIPScore"].value == pytest.approx(250, abs=2) and found["R@1"].value == 100
    assert found["RefCLIPScore"].value == pytest.approx(100 * 2 * 2.5 / 3.5, abs=1)


def test_shuffled_captions_score_nothing_and_find_another_photo(judged):
    found = judged({colour: f"{other} {other}" for colour, other in zip(COLOURS, ("green", "blue", "red"), strict=True)})
    assert found["CLIPScore"].value < 5 and found["R@1"].value == 0 and found["R@5"].value == 100


def test_the_definition_holds(judged, tmp_path):
    captions = {"red": "red green", "green": "green wall", "blue": "a"}
    found = judged(captions)
    judge = ClipScore.tiny(tmp_path).judge
    photos = judge.encode_image([OPENERS[colour]() for colour in COLOURS]).numpy()
    texts = judge.encode_text([captions[colour] for colour in COLOURS]).numpy()
    cosines = (photos * texts).sum(1)
    np.testing.assert_allclose(found["CLIPScore"].each, 250 * np.maximum(cosines, 0), rtol=1e-5)
    for place, colour in enumerate(COLOURS):
        alike = max(0, (judge.encode_text(REFERENCES[colour]).numpy() @ texts[place]).max())
        fit = 2.5 * max(0, cosines[place])
        assert found["RefCLIPScore"].each[place] == pytest.approx(100 * 2 * alike * fit / (alike + fit), rel=1e-5)


def test_the_judge_is_named_and_the_captioners_own_backbone_is_marked(judged):
    captions = dict.fromkeys(COLOURS, "a wall")
    assert judged(captions)["R@1"].note == "by colours"
    assert judged(captions, backbone="colours")["R@1"].note == "by colours, the captioner's own backbone"


def test_without_photos_it_is_not_computed(tmp_path):
    found = ClipScore.tiny(tmp_path).score(Predictions({"1": "a"}, {"1": ["a"]}))
    assert {one.value for one in found.values()} == {None} and "no photos" in found["R@5"].note


def test_clip_has_its_prompt_and_mini_has_none(tiny_backbone, tmp_path):
    from capdec import parts

    assert ClipScore.tiny(tmp_path).prompt == "A photo depicts "
    assert ClipScore(parts.build("backbones", tiny_backbone)).prompt == ""


def test_captions_that_the_judge_is_not_said_to_read_are_marked(tmp_path):
    judge = ClipScore.tiny(tmp_path).judge
    shown = Predictions({"red": "rot"}, {"red": ["rot"]}, {"red": OPENERS["red"]})
    (german, own), plain = ((metric := ClipScore(judge, language="de")).score(shown)["R@1"].note, metric.prompt), ClipScore(judge).score(shown)
    assert "not said to read 'de'" in german and own == "" and "not said" not in plain["R@1"].note
