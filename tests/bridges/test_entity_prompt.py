"""Nouns as a prompt: the caption's own in training, what neighbours agree on at inference."""

import pytest
import torch
import torch.nn.functional as F

from capdec.bridges.entity_prompt import EntityPrompt
from capdec.captioner import Captioner
from capdec.corpus import Pairs
from capdec.errors import SettingError
from capdec.protocols import Condition
from capdec.train import train
from conftest import DECODER

DIM = 16
FAST = {"steps": 6, "batch": 16, "warmup": 2, "evaluate_every": 3, "held_out": 0.2}
SAID = ["two dogs run over the grass", "a dog in the grass", "A dog jumps over a fence", "a man rides a horse", "it is blue", "a guy and a lady"]


class Text:
    """Three captions of dogs that lie near each other, and others elsewhere; each of a photo of its own."""

    def __init__(self):
        base = torch.eye(DIM)[:6]
        base[1:3] = base[0] + 0.1 * base[1:3]
        self.embeddings = F.normalize(base, dim=-1)
        self.pairs = Pairs(SAID, SAID, [str(n) for n in range(6)])

    def __len__(self):
        return 6


def fitted(**settings):
    bridge = EntityPrompt(DIM, **settings)
    bridge.fit(Text())
    return bridge


def image():
    return Condition.of(Text().embeddings[:1] + 0.05)


def test_an_image_is_told_what_enough_of_its_neighbours_name():
    assert fitted(count=3, least=3).from_image(image(), None).prompts == ("There are dog in the image.",)
    assert fitted(count=3, least=2).from_image(image(), None).prompts == ("There are dog, grass in the image.",)
    assert fitted(count=3, least=1, most=1, prompt="Look: {}").from_image(image(), None).prompts == ("Look: dog",)
    assert fitted(count=6, least=5).from_image(image(), None).prompts == ("",), "nothing that five name"


def test_training_says_the_captions_own_nouns_and_drops_some():
    condition = Condition.of(Text().embeddings, torch.arange(6))
    found = fitted(drop=0.0).from_text(condition, torch.Generator().manual_seed(0)).prompts
    assert found[0] == "There are dog, grass in the image." and found[4] == "" and found[5] == "There are man, woman in the image."
    many = Condition.of(Text().embeddings[:1].expand(500, -1), torch.zeros(500).long())
    dropped = fitted(drop=0.4).from_text(many, torch.Generator().manual_seed(0)).prompts
    assert 0.5 < sum("dog" in said for said in dropped) / 500 < 0.7
    assert fitted(drop=0.4).from_text(many, None).prompts[0] == found[0], "without a generator nothing is left to chance"


def test_a_held_out_caption_does_not_hear_what_was_said_of_its_own_photo():
    own = Condition.of(Text().embeddings[3:4], torch.tensor([3]))
    assert "horse" in fitted(count=1, least=1).from_image(Condition.of(own.embeddings), None).prompts[0]
    assert "horse" not in fitted(count=1, least=1).from_image(own, None).prompts[0]


def test_prompts_that_were_there_come_first():
    condition = Condition(image().embeddings, image().mask, ("In a romantic way.",))
    assert fitted(count=3, least=3).from_image(condition, None).prompts == ("In a romantic way. There are dog in the image.",)


@pytest.mark.parametrize("settings", [{"least": 0}, {"count": 2, "least": 3}, {"drop": 1.5}, {"prompt": "nothing"}, {"most": 0}])
def test_values_that_cannot_be_are_refused(settings):
    with pytest.raises(SettingError):
        EntityPrompt(DIM, **settings)


def test_a_captioner_keeps_its_words(tmp_path, tiny_backbone, captions_file):
    bridges = [{"name": "entity_prompt", "count": 3, "least": 1, "size": 50}]
    trained = train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=bridges, decoder=DECODER, training=FAST)
    loaded = Captioner.load(tmp_path / "run")
    assert loaded.bridges[0].words == trained.bridges[0].words and loaded.bridges[0].named.shape[0] == 50
    vectors = torch.randn(4, DIM)
    assert [c.text for c in loaded.caption_embeddings(vectors)] == [c.text for c in trained.caption_embeddings(vectors)]
    assert loaded.bridges[0].from_image(Condition.of(vectors), None).prompts[0].startswith("There are ")
