"""C3's centres, and that bridges after it see what it leaves."""

import pytest
import torch
import torch.nn.functional as F

from capdec import recipe
from capdec.bridges.mean_shift import MeanShift
from capdec.captioner import Captioner
from capdec.errors import SettingError
from capdec.protocols import Condition
from capdec.train import train
from conftest import DECODER

DIM = 16
FAST = {"steps": 6, "batch": 16, "warmup": 2, "evaluate_every": 3, "held_out": 0.2}


class Text:
    """Embeddings that lie to one side, and more in some directions than in others."""

    def __init__(self, seed, side):
        raw = torch.randn(4000, DIM, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.2, 1, DIM)
        self.rows = F.normalize(raw + side, dim=-1)
        self.embeddings = self

    def chunks(self):
        return self.rows.split(1000)

    def __len__(self):
        return len(self.rows)


@pytest.fixture
def shifted():
    text, images = Text(0, 0.5), Text(1, -0.8).rows * 5

    def make(scale):
        bridge = MeanShift(DIM, scale)
        bridge.fit(text, images)
        return [side(Condition.of(rows), None).embeddings[:, 0] for side, rows in ((bridge.from_text, text.rows), (bridge.from_image, images))]

    return make


def test_both_modalities_stand_around_zero(shifted):
    for crossed in shifted(scale=False):
        assert crossed.mean(0).norm() < 0.05, "it was above 0.8"
        torch.testing.assert_close(crossed.norm(dim=-1), torch.ones(len(crossed)))


def test_with_scale_every_coordinate_has_the_same_spread_in_both(shifted):
    for crossed in shifted(scale=True):
        assert crossed.std(0).max() < 1.2 * crossed.std(0).min()
    assert max(crossed.std(0).max() / crossed.std(0).min() for crossed in shifted(scale=False)) > 2


def test_without_images_it_cannot_be_fitted():
    with pytest.raises(SettingError, match="unpaired_photos"):
        MeanShift(DIM).fit(Text(0, 0.5))


def test_a_bridge_after_it_sees_what_it_leaves(tmp_path, tiny_backbone, captions_file, photos):
    bridges = [{"name": "mean_shift"}, {"name": "gaussian_noise", "target_cosine": 0.7}, {"name": "memory_projection", "temperature": 0.05}]
    plan = {"backbone": tiny_backbone, "decoder": DECODER, "training": FAST}
    trained = train(str(captions_file), tmp_path / "run", bridges=bridges, unpaired_photos=photos, **plan)
    shift, _, memory = trained.bridges
    plain = train(str(captions_file), tmp_path / "plain", bridges=bridges[2:], **plan).bridges[0].memory.rows
    moved = shift.from_text(Condition.of(plain.float()), None).embeddings[:, 0]
    torch.testing.assert_close(memory.memory.rows.float(), moved, atol=0.02, rtol=0)
    assert memory.memory.rows.float().mean(0).norm() < 0.5 * plain.float().mean(0).norm(), "noise is not in the memory, the shift is"
    assert Captioner.load(tmp_path / "run").supervision.words() == "text + unpaired image statistics"
    assert recipe.read(tmp_path / "run/recipe.toml")["bridges"][0] == {"name": "mean_shift"}
