import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from capdec.towers import Frame, halve, without_quick_gelu

PHOTO = Image.effect_noise((91, 57), 90).convert("RGB")


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_a_fitted_photo_fits_and_gives_the_same_pixels(squash, fast):
    frame = Frame(32, 32, squash, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1), fast=fast)
    fitted = frame.fit(PHOTO)
    assert fitted.size == (32, 32) and frame.fit(fitted) is fitted
    pixels = frame.pixels([PHOTO, PHOTO.convert("L")])
    assert torch.equal(pixels[:1], frame.pixels([fitted]))
    levels = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels[0], (levels - torch.tensor(frame.mean).view(3, 1, 1)) / torch.tensor(frame.std).view(3, 1, 1))


@pytest.mark.parametrize("resample", [2, 3])
def test_the_fast_way_is_within_one_step_of_pillows(resample):
    exact, fast = (np.int32(Frame(32, 32, False, resample=resample, fast=fast).fit(PHOTO)) for fast in (False, True))
    assert np.abs(exact - fast).max() <= 1 and (exact != fast).mean() < 0.02


def test_half_a_pixel_goes_down_or_to_the_even_neighbour():
    photo = Image.fromarray(np.arange(35 * 3, dtype=np.uint8).reshape(1, 35, 3).repeat(32, 0))  # 3 too many: 1.5 at each side
    assert np.asarray(Frame(32, 32, False).fit(photo))[0, 0, 0] == 3 and np.asarray(Frame(32, 32, False, even=True).fit(photo))[0, 0, 0] == 6


def test_halved_weights_give_what_autocast_gives():
    torch.manual_seed(0)
    network = nn.ModuleDict({"layer_norm1": nn.LayerNorm(16), "first": nn.Linear(16, 32), "second": nn.Linear(32, 8)})
    x = torch.randn(5, 16)

    def run():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return network["second"](torch.relu(network["first"](network["layer_norm1"](x))))

    before = run()
    halve(network)
    assert network["first"].weight.dtype == torch.bfloat16 and network["layer_norm1"].weight.dtype == torch.float32
    assert torch.equal(run(), before)


def test_quick_gelu_is_silu_between_changed_weights():
    torch.manual_seed(0)
    before, after, x = nn.Linear(8, 16), nn.Linear(16, 4), torch.randn(5, 8)
    hidden = before(x)
    expected = after(hidden * torch.sigmoid(1.702 * hidden)).detach()
    between = without_quick_gelu(before, after)
    with torch.no_grad():
        torch.testing.assert_close(after(between(before(x))), expected, rtol=1e-5, atol=1e-6)
