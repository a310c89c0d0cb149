"""MacCap's bridge: copies of a caption in training, regions of a photo at inference, and a captioner that is told them from photo to caption."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from capdec import parts
from capdec.bridges.region_noise import RegionNoise
from capdec.captioner import Captioner
from capdec.errors import SettingError
from capdec.evaluate import evaluate
from capdec.protocols import Condition, Decoding, Supervision
from capdec.train import train
from conftest import DECODER

DIM = 64
BRIDGE = {"name": "region_noise", "copies": 4, "target_cosine": 0.7}
READER = {**DECODER, "mapper": "attention", "mapper_layers": 1}
FAST = {"steps": 6, "batch": 16, "warmup": 2, "evaluate_every": 3, "held_out": 0.2}


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(1)), dim=-1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_caption_is_copied_and_each_copy_has_a_noise_of_its_own():
    bridge, clean = RegionNoise(DIM, 10, target_cosine=0.5), unit(300, DIM)
    told = bridge.from_text(Condition.of(clean, torch.arange(300)), generator())
    assert told.embeddings.shape == (300, 10, DIM) and told.mask.all() and torch.equal(told.rows, torch.arange(300))
    near = F.cosine_similarity(told.embeddings, clean.unsqueeze(1), dim=-1)
    assert near.mean().item() == pytest.approx(0.5, abs=0.01)
    assert F.cosine_similarity(told.embeddings[:, 0], told.embeddings[:, 1]).mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(bridge.from_text(Condition.of(clean), None).embeddings, clean.unsqueeze(1).expand(-1, 10, -1))


def test_a_photo_is_its_regions_each_with_the_global_embedding():
    bridge, seen = RegionNoise(DIM, 3, std=0.1, global_weight=0.5, at_inference=False), unit(5, 4, DIM)
    told = bridge.from_image(Condition.of(seen), generator())
    torch.testing.assert_close(told.embeddings, F.normalize(seen[:, 1:] + 0.5 * seen[:, :1], dim=-1))
    assert not bridge.draws and told.mask.shape == (5, 3)
    noisy = RegionNoise(DIM, 3, std=0.1, global_weight=0.5)
    found = noisy.from_image(Condition.of(seen), generator()).embeddings
    noise = 0.1 * torch.randn(5, 3, DIM, generator=generator())
    torch.testing.assert_close(found, F.normalize(seen[:, 1:] + 0.5 * seen[:, :1] + noise, dim=-1))
    assert noisy.draws
    torch.testing.assert_close(noisy.from_image(Condition.of(seen), None).embeddings, told.embeddings)


def test_a_stored_embedding_stands_in_for_its_regions():
    bridge, seen = RegionNoise(DIM, 3, std=0.1), unit(5, DIM)
    torch.testing.assert_close(bridge.from_image(Condition.of(seen), None).embeddings, seen.unsqueeze(1).expand(-1, 3, -1))
    assert (bridge.regions, RegionNoise(DIM, 3, regions=0, std=0.1).regions, RegionNoise(DIM, 3, regions=7, std=0.1).regions) == (3, 0, 7)


def test_what_cannot_be_is_said():
    with pytest.raises(SettingError, match="exactly one of"):
        RegionNoise(DIM)
    with pytest.raises(SettingError, match="copies is 1 or more"):
        RegionNoise(DIM, 0, std=0.1)
    with pytest.raises(SettingError, match="before the bridges that add rows"):
        RegionNoise(DIM, 3, std=0.1).from_text(Condition.of(unit(5, 2, DIM)), None)
    assert RegionNoise(DIM, std=0.1).supervision == Supervision(0)


def trained(captions_file, tiny_backbone, folder):
    return train(str(captions_file), folder, backbone=tiny_backbone, bridges=[BRIDGE], decoder=READER, training=FAST)


def photos(count):
    pixels = np.random.default_rng(0).integers(0, 255, (count, 24, 24, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


def test_a_captioner_sees_regions_and_draws_for_each_photo_alone(captions_file, tiny_backbone, tmp_path):
    captioner = trained(captions_file, tiny_backbone, tmp_path / "run")
    assert captioner.regions == 4
    seen, decoding = photos(5), Decoding(captions=3, max_tokens=8)
    together = captioner.caption(seen, decoding)
    alone = [captioner.caption([photo], decoding, start=place)[0] for place, photo in enumerate(seen)]
    assert [one.text for one in alone] == [one.text for one in together]
    assert all(len(one.alternatives) == 2 and one.score >= one.alternatives[0].score for one in together)
    stored = captioner.caption_embeddings(captioner.backbone.encode_regions(seen, 4), decoding)
    assert [one.text for one in stored] == [one.text for one in together]
    again = Captioner.load(tmp_path / "run").caption(seen, decoding)
    assert [one.text for one in again] == [one.text for one in together]
    ranked = captioner.caption(seen, Decoding(captions=3, max_tokens=8, rerank="clip"))
    assert sorted(c.text for c in (ranked[0], *ranked[0].alternatives)) == sorted(c.text for c in (together[0], *together[0].alternatives))


def test_an_evaluation_shows_regions_too(captions_file, tiny_backbone, shard, tmp_path):
    captioner = trained(captions_file, tiny_backbone, tmp_path / "run")
    scores = evaluate(captioner, shard, tmp_path / "scored", metrics=("coco_scores",), resamples=10, embeddings=tmp_path / "kept")
    assert scores["n"] == 6
    manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert (manifest["regions"], manifest["dim"]) == ("4", 5 * 16)
    said = [json.loads(line)["caption"] for line in (tmp_path / "scored" / "predictions.jsonl").read_text().splitlines()]
    from capdec.corpus import open_dataset

    assert said == [one.text for one in captioner.caption([example.open_image() for example in open_dataset(shard)])]


def test_a_backbone_without_regions_is_named(tiny_captioner, monkeypatch):
    bridges = [parts.build("bridges", BRIDGE, dim=16)]
    captioner = Captioner(tiny_captioner.backbone, bridges, tiny_captioner.decoder, tiny_captioner.spec)
    monkeypatch.delattr(type(captioner.backbone), "encode_regions")
    with pytest.raises(SettingError, match="Mini cannot encode regions"):
        captioner.caption(photos(1))
