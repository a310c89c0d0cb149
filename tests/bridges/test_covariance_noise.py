"""CLOSE's noise: shaped like the differences it was fitted on, of a size that can be asked for, and honest about whether pairs were used."""

import pytest
import torch
import torch.nn.functional as F

from capdec.bridges.covariance_noise import CovarianceNoise
from capdec.captioner import Captioner
from capdec.errors import SettingError
from capdec.protocols import Condition, Supervision
from capdec.train import train
from conftest import DECODER

DIM = 16
FAST = {"steps": 6, "batch": 16, "warmup": 2, "evaluate_every": 3, "held_out": 0.2}


class Text:
    """Two captions of each of a thousand photos, which differ in the first four coordinates only; a photo lies off in the last."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        centres = F.normalize(torch.randn(1000, DIM, generator=generator), dim=-1).repeat_interleave(2, 0)
        spread = torch.randn(2000, DIM, generator=generator) * torch.tensor([0.1] * 4 + [0.0] * 12)
        self.embeddings = F.normalize(centres + spread, dim=-1)
        self.images = F.normalize(centres[::2] + torch.tensor([0.0] * 15 + [0.8]), dim=-1)
        self.photos = {f"photo {n}": n for n in range(1000)}
        self.pairs = self
        self.image_ids = [f"photo {row // 2}" for row in range(2000)]

    def siblings(self):
        return {row: [row ^ 1] for row in range(2000)}


def noised(bridge, rows):
    return bridge.from_text(Condition.of(rows), torch.Generator().manual_seed(1)).embeddings.squeeze(1)


def test_the_noise_has_the_covariance_of_the_differences():
    text, bridge = Text(), CovarianceNoise(DIM)
    bridge.fit(text)
    apart = text.embeddings[::2] - text.embeddings[1::2]
    torch.testing.assert_close(bridge.root @ bridge.root.T, apart.T @ apart / len(apart), atol=1e-5, rtol=1e-3)
    assert bridge.root[:4].norm() > 4 * bridge.root[4:].norm()
    assert bridge.mean.eq(0).all() and bridge.supervision == Supervision(0)


@pytest.mark.parametrize("cosine", [0.9, 0.5])
def test_a_target_cosine_is_met(cosine):
    text, bridge = Text(), CovarianceNoise(DIM, target_cosine=cosine)
    bridge.fit(text)
    found = F.cosine_similarity(noised(bridge, text.embeddings), text.embeddings)
    assert found.mean().item() == pytest.approx(cosine, abs=0.06), "four directions are few, so the expectation is rough"


def test_pairs_bring_their_mean_and_are_said_to_be_pairs():
    text, bridge = Text(), CovarianceNoise(DIM, "pairs")
    bridge.fit(text, text.images * 3)
    torch.testing.assert_close(bridge.mean, (text.images.repeat_interleave(2, 0) - text.embeddings).mean(0))
    assert bridge.mean[-1] > 0.4 and bridge.supervision == Supervision.PAIR_STATISTICS
    clean = bridge.from_text(Condition.of(text.embeddings), None).embeddings.squeeze(1)
    torch.testing.assert_close(clean, F.normalize(text.embeddings + bridge.mean, dim=-1))


def test_a_scale_of_nothing_is_no_noise():
    text, bridge = Text(), CovarianceNoise(DIM, scale=0)
    bridge.fit(text)
    torch.testing.assert_close(noised(bridge, text.embeddings), text.embeddings)


def test_what_is_missing_is_an_error():
    text = Text()
    text.siblings, text.photos = dict, {}
    with pytest.raises(SettingError, match="several captions"):
        CovarianceNoise(DIM).fit(text)
    with pytest.raises(SettingError, match="unpaired_photos"):
        CovarianceNoise(DIM, "pairs").fit(text, text.images)
    same = Text()
    same.embeddings[1::2] = same.embeddings[::2]
    with pytest.raises(SettingError, match="no differences"):
        CovarianceNoise(DIM, target_cosine=0.5).fit(same)
    with pytest.raises(SettingError, match="scale"):
        CovarianceNoise(DIM, scale=1, target_cosine=0.5)


def test_a_captioner_says_that_statistics_of_pairs_were_used(tmp_path, tiny_backbone, captions_file, photos):
    plan = {"backbone": tiny_backbone, "decoder": DECODER, "training": FAST, "unpaired_photos": photos}
    for differences, words in (("pairs", "text + statistics of pairs"), ("siblings", "text only")):
        bridges = [{"name": "covariance_noise", "differences": differences, "target_cosine": 0.6}]
        with pytest.warns(UserWarning, match="1 of 40 photos"):
            trained = train(str(captions_file), tmp_path / differences, bridges=bridges, **plan)
        loaded = Captioner.load(tmp_path / differences)
        assert loaded.supervision.words() == words
        assert torch.equal(loaded.bridges[0].root, trained.bridges[0].root)
