"""Neighbours as rows: the right ones, found in training as an image would find them, and never what was said of the same photo."""

import pytest
import torch
import torch.nn.functional as F

from capdec.bridges.retrieval import Retrieval
from capdec.captioner import Captioner
from capdec.corpus import Pairs
from capdec.errors import SettingError
from capdec.protocols import Condition
from capdec.train import train
from conftest import DECODER

DIM = 16
FAST = {"steps": 6, "batch": 16, "warmup": 2, "evaluate_every": 3, "held_out": 0.2}


class Text:
    """Forty photos with two captions each."""

    def __init__(self):
        self.embeddings = F.normalize(torch.randn(80, DIM, generator=torch.Generator().manual_seed(0)), dim=-1).bfloat16().float()
        names = [f"photo {row // 2}" for row in range(80)]
        self.pairs = Pairs(names, names, names)

    def __len__(self):
        return 80


def fitted(**settings):
    bridge = Retrieval(DIM, **settings)
    bridge.fit(Text())
    return bridge


def test_an_image_gets_its_nearest_captions_behind_itself():
    text, image = Text(), F.normalize(torch.randn(3, DIM, generator=torch.Generator().manual_seed(5)), dim=-1)
    found = fitted(count=4).from_image(Condition.of(image), None)
    assert found.embeddings.shape == (3, 5, DIM) and found.mask.all()
    torch.testing.assert_close(found.embeddings[:, 0], image)
    torch.testing.assert_close(found.embeddings[:, 1:], text.embeddings[(image @ text.embeddings.T).topk(4).indices])
    alone = fitted(count=4, replace=True).from_image(Condition.of(image), None)
    torch.testing.assert_close(alone.embeddings, found.embeddings[:, 1:])


def test_regions_stay_behind_the_neighbours():
    regions = torch.randn(2, 3, DIM)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = fitted(count=2).from_image(Condition(regions, mask), None)
    torch.testing.assert_close(found.embeddings[:, 3:], regions[:, 1:])
    assert found.mask.tolist() == [[True] * 5, [True] * 4 + [False]]


def test_a_caption_of_the_corpus_finds_none_of_its_own_photo():
    text, rows = Text(), torch.arange(80)
    found = fitted(count=78).from_text(Condition.of(text.embeddings, rows), None)
    assert torch.equal(found.rows, rows)
    own = text.embeddings.view(40, 2, DIM).repeat_interleave(2, 0)  # of each row its photo's two captions
    assert not (found.embeddings[:, 1:].unsqueeze(2) == own.unsqueeze(1)).all(-1).any()
    assert fitted(count=80).from_text(Condition.of(text.embeddings, rows), None).mask.sum(1).eq(79).all(), "itself and seventy-eight others"


def test_in_training_it_looks_from_where_an_image_would_stand():
    text = Text()
    condition = Condition.of(text.embeddings, torch.arange(80))
    near, far = (fitted(count=5, target_cosine=cosine).from_text(condition, torch.Generator().manual_seed(1)) for cosine in (1.0, 0.3))
    torch.testing.assert_close(far.embeddings[:, 0], text.embeddings)
    cosines = [(found.embeddings[:, :1] * found.embeddings[:, 1:]).sum(-1).mean() for found in (near, far)]
    assert cosines[1] < cosines[0] - 0.1
    calm = fitted(count=5, target_cosine=0.3).from_text(condition, None)
    torch.testing.assert_close(calm.embeddings, near.embeddings)


@pytest.mark.parametrize("settings", [{"count": 0}, {"target_cosine": 0.0}, {"size": -1}])
def test_values_that_cannot_be_are_refused(settings):
    with pytest.raises(SettingError):
        Retrieval(DIM, **settings)


def test_a_captioner_learns_from_neighbours_and_keeps_them(tmp_path, tiny_backbone, captions_file):
    bridges = [{"name": "gaussian_noise", "target_cosine": 0.7}, {"name": "retrieval", "count": 3, "target_cosine": 0.5}]
    trained = train(str(captions_file), tmp_path / "run", backbone=tiny_backbone, bridges=bridges, decoder=DECODER, training=FAST)
    loaded = Captioner.load(tmp_path / "run")
    vectors = torch.randn(4, DIM)
    assert [c.text for c in loaded.caption_embeddings(vectors)] == [c.text for c in trained.caption_embeddings(vectors)]
    assert loaded.supervision.words() == "text only"
