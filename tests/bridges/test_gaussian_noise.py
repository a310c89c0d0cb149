"""The noise of CapDec: what its level means, and that three ways of saying it are one."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F

from capdec.bridges.gaussian_noise import GaussianNoise
from capdec.errors import SettingError
from capdec.protocols import Condition, Supervision


def unit(rows, dim):
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(1)), dim=-1)


def noised(bridge, clean, seed=0):
    return bridge.from_text(Condition.of(clean), torch.Generator().manual_seed(seed)).embeddings.squeeze(1)


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
@pytest.mark.parametrize(("dim", "std"), [(64, 0.05), (64, 0.3), (512, 0.1265), (640, 0.1265), (1024, 0.02)])
def test_the_mean_cosine_with_the_clean_embedding_is_the_one_promised(dim, std, distribution):
    bridge, clean = GaussianNoise(dim, std=std, distribution=distribution), unit(2000, dim)
    found = F.cosine_similarity(noised(bridge, clean), clean).mean().item()
    assert found == pytest.approx(1 / math.sqrt(1 + dim * std**2), abs=0.01)
    assert bridge.target_cosine == pytest.approx(1 / math.sqrt(1 + dim * std**2))


def test_std_variance_and_target_cosine_say_the_same():
    by_std = GaussianNoise(640, std=0.1265)
    by_variance, by_cosine = GaussianNoise(640, variance=0.1265**2), GaussianNoise(640, target_cosine=by_std.target_cosine)
    assert by_variance.std == pytest.approx(by_std.std) and by_cosine.std == pytest.approx(by_std.std)
    clean = unit(5, 640)
    torch.testing.assert_close(noised(by_variance, clean), noised(by_std, clean))
    torch.testing.assert_close(noised(by_cosine, clean), noised(by_std, clean))


@pytest.mark.parametrize(
    ("dim", "noise", "cosine"),
    [
        (640, {"variance": 0.001}, 0.781),
        (640, {"variance": 0.016}, 0.298),  # CapDec's default
        (640, {"variance": 0.1}, 0.124),
        (640, {"variance": 2.5}, 0.025),
        (512, {"variance": 0.016}, 0.330),  # ViECap, MacCap
        (1024, {"variance": 0.04}, 0.154),  # IFCap's retrieval
        (768, {"std": 0.04}, 0.670),  # CLOSE
        (768, {"std": 0.08}, 0.411),
        (768, {"std": 0.12}, 0.288),
    ],
)
def test_published_noise_levels_are_these_cosines(dim, noise, cosine):
    assert round(GaussianNoise(dim, **noise).target_cosine, 3) == cosine


@pytest.mark.parametrize(("dim", "variance"), [(512, 0.0197), (640, 0.0158), (768, 0.0132), (1024, 0.0099), (1152, 0.0088)])
def test_a_cosine_of_0_30_is_another_variance_for_each_width(dim, variance):
    assert round(GaussianNoise(dim, target_cosine=0.30).std ** 2, 4) == variance


def test_uniform_noise_has_the_mean_squared_norm_of_gaussian_noise_and_a_bound():
    """So little noise that normalising takes away its component along the embedding and nothing else: D - 1 of D coordinates are left."""
    dim, std, clean = 8, 1e-3, unit(20000, 8)
    squared = {kind: (noised(GaussianNoise(dim, std=std, distribution=kind), clean) - clean).square().sum(-1) for kind in ("gaussian", "uniform")}
    for kind in squared:
        assert squared[kind].mean().item() == pytest.approx((dim - 1) * std**2, rel=0.02)
    radius = std * math.sqrt(dim + 2)
    assert 0.9 * radius < squared["uniform"].max().sqrt() < 1.01 * radius < squared["gaussian"].max().sqrt()


@pytest.mark.parametrize("none", [{"std": 0.0}, {"variance": 0.0}, {"target_cosine": 1.0}])
def test_no_noise_is_the_identity(none):
    condition = Condition.of(torch.randn(3, 2, 16))
    assert torch.equal(GaussianNoise(16, **none).from_text(condition, torch.Generator()).embeddings, condition.embeddings)


def test_every_row_has_noise_of_its_own_and_a_seed_decides_it():
    bridge, clean = GaussianNoise(16, std=0.2), unit(1, 16).expand(4, 3, 16)
    crossed = bridge.from_text(Condition.of(clean), torch.Generator().manual_seed(3)).embeddings
    torch.testing.assert_close(crossed.norm(dim=-1), torch.ones(4, 3))
    assert len(torch.unique(crossed.flatten(0, 1), dim=0)) == 12
    assert torch.equal(crossed, bridge.from_text(Condition.of(clean), torch.Generator().manual_seed(3)).embeddings)
    assert not torch.equal(crossed, bridge.from_text(Condition.of(clean), torch.Generator().manual_seed(4)).embeddings)
    one = torch.Generator().manual_seed(3)
    bridge.from_text(Condition.of(clean), one)
    assert not torch.equal(crossed, bridge.from_text(Condition.of(clean), one).embeddings), "the generator moves on"


def test_the_length_of_an_embedding_does_not_change_its_noise():
    bridge, clean = GaussianNoise(16, std=0.2), unit(3, 16)
    torch.testing.assert_close(noised(bridge, 7 * clean), noised(bridge, clean))


def test_the_image_side_and_all_but_the_embeddings_are_left_alone():
    bridge, mask = GaussianNoise(16, std=0.2), torch.tensor([[True, False]] * 3)
    condition = Condition(torch.randn(3, 2, 16), mask, ("a", "b", "c"), torch.arange(3))
    assert bridge.from_image(condition, torch.Generator()) is condition
    crossed = bridge.from_text(condition, torch.Generator())
    assert crossed.mask is mask and crossed.prompts == ("a", "b", "c") and crossed.rows is condition.rows
    assert bridge.supervision == Supervision(0) and bridge.tensors() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of std, variance and target_cosine; none came"),
        ({"std": 0.1, "variance": 0.01}, "std = 0.1, variance = 0.01 came"),
        ({"std": -0.1}, "out of range"),
        ({"variance": -1.0}, "out of range"),
        ({"std": math.nan}, "out of range"),
        ({"variance": math.inf}, "out of range"),
        ({"target_cosine": 0.0}, "out of range"),
        ({"target_cosine": 1.01}, "out of range"),
        ({"target_cosine": -0.5}, "out of range"),
        ({"std": 0.1, "distribution": "cauchy"}, "'gaussian' or 'uniform', not 'cauchy'"),
    ],
)
def test_a_level_that_cannot_be_is_an_error(settings, message):
    with pytest.raises(SettingError, match=message):  # past the tests' own type checks
        inspect.unwrap(GaussianNoise.__init__)(GaussianNoise.__new__(GaussianNoise), 16, **settings)
