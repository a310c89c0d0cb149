import json
import math

import pytest
import torch

from capdec.errors import DataError
from capdec.gap import gap
from capdec.noise import std_of


@pytest.fixture
def backbone(tiny_backbone):
    from capdec import parts

    return parts.build("backbones", tiny_backbone)


class Invented:
    """Captions of one photo lie around the photo's direction, in a space whose first coordinate tells texts from images."""

    dim, fingerprint, target_cosine, trained_on_pairs = 64, "invented", 0.5, frozenset()

    def __init__(self, spread=0.5, offset=1.0):
        self.spread, self.offset = spread, offset

    def direction(self, photo, seed):
        direction = torch.randn(self.dim, generator=torch.Generator().manual_seed(photo))
        noise = torch.randn(self.dim, generator=torch.Generator().manual_seed(seed))
        return direction / direction.norm() + self.spread * noise / self.dim**0.5

    def encode_text(self, captions, normalize=True):
        rows = torch.stack([self.direction(int(text.split()[1]), sum(map(ord, text)) * 7919 + int(text.split()[1])) for text in captions])
        rows[:, 0] += self.offset
        return torch.nn.functional.normalize(rows, dim=-1)

    def encode_image(self, images, normalize=True):
        rows = torch.stack([self.direction(round(image.getpixel((0, 0))[0]), 10**6 + place) for place, image in enumerate(images)])
        rows[:, 0] -= self.offset
        return torch.nn.functional.normalize(rows, dim=-1)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"image_id": str(n), "captions": [f"photo {n} number {k}" for k in range(4)]} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_from_text_alone_come_cosines_a_spectrum_and_a_suggestion(tmp_path, texts):
    found = gap(Invented(), texts, tmp_path / "out")
    assert found["sibling_pairs"] == 60 * 6 and found["captions"] == 240
    assert found["cosines"]["captions of one photo"]["mean"] > found["cosines"]["any two captions"]["mean"] + 0.3
    assert {one["from"] for one in found["estimates"]} == {"text"} == {found["suggestion"]["from"]}
    for one in found["estimates"]:
        assert one["target_cosine"] == pytest.approx(1 / math.sqrt(1 + 64 * one["std"] ** 2), abs=1e-3)
    between = sorted(one["std"] for one in found["estimates"] if one["name"] in ("paper's estimate", "as far as a sibling"))
    assert between[0] < found["suggestion"]["std"] < between[1]
    assert 1 < found["text"]["effective_dimension"] <= 64
    assert json.loads((tmp_path / "out/gap.json").read_text()) == found
    assert (tmp_path / "out/gap.svg").read_text().startswith("<?xml")


def test_the_estimates_are_what_they_say(tmp_path, texts):
    backbone = Invented()
    found = {one["name"]: one for one in gap(backbone, texts, tmp_path / "out")["estimates"]}
    rows = torch.stack([backbone.encode_text([f"photo {n} number {k}" for k in range(4)]) for n in range(60)])
    differences = torch.stack([rows[:, a] - rows[:, b] for a in range(4) for b in range(a)])
    assert found["paper's estimate"]["std"] == pytest.approx(differences.abs().amax(-1).mean().item(), abs=1e-3)
    cosine = 1 - differences.square().sum(-1).mean().item() / 2
    assert found["as far as a sibling"]["target_cosine"] == pytest.approx(cosine, abs=1e-3)


def test_with_photos_the_gap_is_seen_and_pairs_are_marked_as_such(tmp_path, texts, shard_of_numbers):
    found = gap(Invented(), texts, tmp_path / "out", shard_of_numbers, picture="gap.png")
    assert found["pairs"] == 240 and found["photos"] == 60
    assert found["centres"]["distance"] > 1 and found["centres"]["share_of_largest_coordinate"] > 0.8
    estimates = {one["name"]: one for one in found["estimates"]}
    far, aligned = estimates["as far as the photo"], estimates["as far as the photo, centres aligned"]
    assert far["from"] == aligned["from"] == "pairs" and aligned["target_cosine"] > far["target_cosine"] + 0.3
    assert found["suggestion"]["from"] == "text"
    assert (tmp_path / "out/gap.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def shard_of_numbers(tmp_path):
    """A photo for each id, whose red says which."""
    import tarfile

    from PIL import Image

    with tarfile.open(tmp_path / "numbers.tar", "w") as tar:
        for n in range(60):
            Image.new("RGB", (4, 4), (n, 0, 0)).save(tmp_path / f"{n}.png")
            (tmp_path / f"{n}.json").write_text(json.dumps({"image_id": str(n), "captions": ["x"]}))
            for ending in ("png", "json"):
                tar.add(tmp_path / f"{n}.{ending}", arcname=f"{n}.{ending}")
    return str(tmp_path / "numbers.tar")


def test_captions_without_siblings_are_refused(tmp_path, backbone):
    (tmp_path / "plain.txt").write_text("a dog\na cat\n")
    with pytest.raises(DataError, match="no photo has two different captions"):
        gap(backbone, str(tmp_path / "plain.txt"), tmp_path / "out")


def test_a_cosine_and_its_noise_are_each_others_inverse():
    from capdec.bridges.gaussian_noise import GaussianNoise

    for cosine in (0.9, 0.5, 0.298):
        assert GaussianNoise(640, std=std_of(cosine, 640)).target_cosine == pytest.approx(cosine)
    assert std_of(1.0, 640) == 0 and std_of(1.0000001, 640) == 0
