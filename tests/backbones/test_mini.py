import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from capdec.backbones.mini import MAX_TOKENS, Mini, as_pixels
from capdec.errors import DataError, SettingError


def test_a_photo_is_squeezed_whole_and_not_cropped():
    photo = Image.new("RGB", (400, 100), "black")
    photo.paste("white", (200, 0, 400, 100))
    pixels = as_pixels([photo])
    assert pixels.shape == (1, 3, 128, 128)
    assert pixels[..., :60].max() < 10 and pixels[..., 68:].min() > 245


def test_embeddings_do_not_depend_on_the_batch_or_its_order(tmp_path):
    mini = Mini.tiny(tmp_path)
    texts = [f"{'two dogs and ' * (n % 5)}a man {n}" for n in range(150)]
    whole = mini.encode_text(texts)
    torch.testing.assert_close(whole, torch.cat([mini.encode_text(texts[n : n + 1]) for n in range(150)]), rtol=1e-4, atol=1e-5)
    photos = [Image.new("RGB", (20, 20), (n, 200 - n, 50)) for n in range(70)]
    torch.testing.assert_close(mini.encode_image(photos), torch.cat([mini.encode_image([photo]) for photo in photos]), rtol=1e-4, atol=1e-5)


def test_case_does_not_matter_and_an_empty_caption_has_an_embedding(tmp_path):
    mini = Mini.tiny(tmp_path)
    assert torch.equal(mini.encode_text(["A Man"]), mini.encode_text(["a man"]))
    assert torch.isfinite(mini.encode_text([""])).all()


def test_captions_that_are_cut_are_counted_and_reported(tmp_path):
    mini = Mini.tiny(tmp_path)
    with pytest.warns(UserWarning, match=f"1 of 2 captions were cut at {MAX_TOKENS}"):
        mini.encode_text(["a man", "a man and a dog " * 20])
    assert mini.truncated == 1


def test_the_fingerprint_is_of_the_weights(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = Mini.tiny(tmp_path / "a"), Mini.tiny(tmp_path / "b")
    assert first.fingerprint == Mini(str(tmp_path / "a/tiny_mini")).fingerprint
    assert first.fingerprint != second.fingerprint


def test_a_folder_without_a_mini_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="capdec pretrain"):
        Mini(str(tmp_path))


def test_the_embedded_mini_tells_a_fitting_caption_from_others():
    from skimage import data

    mini = Mini()
    photos = [Image.fromarray(data.chelsea()), Image.fromarray(data.rocket())]
    cosines = mini.encode_image(photos) @ mini.encode_text(["a close up of a cat", "a big tower against the evening sky"]).T
    assert cosines[0, 0] > cosines[1, 0], "the cat's caption fits the cat better than the rocket"
    assert mini.trained_on_pairs == {"flickr8k"}


def test_regions_are_the_cells_nearest_to_the_photo_each_a_mean_of_what_is_like_it():
    mini, photos = Mini(), [Image.effect_noise((100, 80), 90 + 20 * n).convert("RGB") for n in range(3)]
    found = mini.encode_regions(photos, 5)
    assert found.shape == (3, 6, mini.dim)
    torch.testing.assert_close(found[:, 0], mini.encode_image(photos), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 6))
    with torch.no_grad():
        grid = mini.model.project(mini.model.image(as_pixels(photos).float() / 255).flatten(2).transpose(1, 2))
    for photo in range(3):
        unit = F.normalize(grid[photo], dim=-1)
        order = (unit @ found[photo, 0]).argsort(descending=True)[:5]
        for place, cell in enumerate(order):
            pooled = ((unit[cell] @ unit.T) / 0.1).softmax(0) @ grid[photo]
            torch.testing.assert_close(found[photo, 1 + place], F.normalize(pooled, dim=-1), rtol=1e-4, atol=1e-5)
    assert mini.encode_regions([], 5).shape == (0, 6, mini.dim)
    with pytest.raises(SettingError, match="16 cells"):
        mini.encode_regions(photos, 17)


def test_bfloat16_is_set_on_the_object_and_keeps_fingerprint_and_cosine():
    full, half = Mini(), Mini()
    half.dtype = "bfloat16"
    photos = [Image.effect_noise((100, 80), 90 + 20 * n).convert("RGB") for n in range(3)]
    assert half.fingerprint == full.fingerprint
    ours, exact = half.encode_image(photos), full.encode_image(photos)
    assert ours.dtype == torch.float32 and not torch.equal(ours, exact) and (ours * exact).sum(-1).min() > 0.9999
    assert torch.equal(half.encode_text(["a man"]), full.encode_text(["a man"]))
    assert half.encode_regions(photos, 3).dtype == torch.float32


def test_a_fitted_photo_is_embedded_as_the_photo_is():
    mini, photo = Mini(), Image.effect_noise((300, 200), 90)
    assert mini.fit_photo(photo).size == (128, 128)
    assert torch.equal(mini.encode_image([mini.fit_photo(photo)]), mini.encode_image([photo]))
