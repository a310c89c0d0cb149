import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from capdec.captioner import Captioner, listing, locate
from capdec.errors import DataError, ImageError, MismatchError, SettingError
from capdec.protocols import Decoding


def _photos(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (40 + n, 50, 3), dtype=np.uint8)) for n in range(count)]


def test_a_saved_captioner_loads_from_its_folder_and_says_the_same(tmp_path, tiny_captioner):
    tiny_captioner.save(tmp_path / "saved")
    loaded = Captioner.load(tmp_path / "saved")
    assert loaded.caption(_photos(4)) == tiny_captioner.caption(_photos(4))


def test_half_precision_halves_the_file(tmp_path, tiny_captioner):
    tiny_captioner.save(tmp_path / "whole")
    tiny_captioner.save(tmp_path / "half", torch.float16)
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    vectors = torch.randn(2, 16)
    assert len(Captioner.load(tmp_path / "half").caption_embeddings(vectors)) == 2


def test_photos_and_their_stored_embeddings_get_the_same_captions(tiny_captioner):
    photos = _photos(5)
    stored = tiny_captioner.backbone.encode_image(photos, normalize=False)
    captions = tiny_captioner.caption(photos)
    assert tiny_captioner.caption_embeddings(stored) == captions
    assert [c.text for c in tiny_captioner.caption_embeddings(stored.numpy() * 7)] == [c.text for c in captions], "their length does not matter"


def test_captions_do_not_depend_on_the_batch(tiny_captioner):
    vectors = torch.randn(7, 16)
    for decoding in (Decoding(max_tokens=8, captions=2), Decoding("nucleus", max_tokens=8, seed=3)):
        whole = tiny_captioner.caption_embeddings(vectors, decoding, batch=7)
        for batch in (1, 3):
            assert [c.tokens for c in tiny_captioner.caption_embeddings(vectors, decoding, batch=batch)] == [c.tokens for c in whole]


def test_alternatives_are_further_captions_best_first(tiny_captioner):
    (caption,) = tiny_captioner.caption_embeddings(torch.randn(1, 16), Decoding(captions=3, max_tokens=8))
    scores = [caption.score, *(other.score for other in caption.alternatives)]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_embeddings_of_another_width_or_backbone_are_refused(tiny_captioner):
    with pytest.raises(MismatchError, match=r"\[2, 512\]"):
        tiny_captioner.caption_embeddings(torch.randn(2, 512))
    with pytest.raises(MismatchError, match="ViT-B/32"):
        tiny_captioner.caption_embeddings(torch.randn(2, 16), backbone="ViT-B/32")
    assert tiny_captioner.caption_embeddings(torch.randn(2, 16), backbone=tiny_captioner.backbone.fingerprint)
    bad = torch.randn(4, 16)
    bad[2] = 0
    with pytest.raises(DataError, match="row 2"):
        tiny_captioner.caption_embeddings(bad)


def test_no_embeddings_and_no_photos_are_no_captions(tiny_captioner):
    assert tiny_captioner.caption_embeddings(torch.zeros(0, 16)) == []
    assert tiny_captioner.caption([]) == []


def test_a_photo_that_cannot_be_opened_is_an_image_error(tiny_captioner, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        tiny_captioner.caption([tmp_path / "gone.jpg"])


def test_one_path_is_no_list_of_photos_and_a_clip_may_be_paths(tiny_captioner, tmp_path):
    paths = []
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    with pytest.raises(SettingError, match="takes a list of photos and clips, and one path came"):
        tiny_captioner.caption(paths[0])
    assert tiny_captioner.caption([paths]) == tiny_captioner.caption([[Image.open(path) for path in paths]])


def test_a_captioner_refuses_a_backbone_that_is_not_its_own(tmp_path, tiny_captioner):
    tiny_captioner.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    (tmp_path / "saved/config.json").write_text(json.dumps({**config, "backbone_fingerprint": "mini-of-yesterday"}))
    with pytest.raises(MismatchError, match="mini-of-yesterday"):
        Captioner.load(tmp_path / "saved")


def test_what_is_not_a_captioner_is_said_plainly(tmp_path, tiny_captioner):
    with pytest.raises(DataError, match="neither embedded"):
        Captioner.load("no_such_name")
    with pytest.raises(DataError, match="without a config"):
        Captioner.load(tmp_path)
    tiny_captioner.save(tmp_path / "saved")
    for damage, message in (("{", "not JSON"), ('{"format_version": 99}', "format_version 99")):
        (tmp_path / "saved/config.json").write_text(damage)
        with pytest.raises(DataError, match=message):
            Captioner.load(tmp_path / "saved")


def test_a_captioner_that_names_code_of_its_makers_own_is_refused_unless_trusted(tmp_path, tiny_captioner):
    tiny_captioner.save(tmp_path / "saved")
    path = tmp_path / "saved/config.json"
    config = json.loads(path.read_text())
    for foreign in ({"bridges": [{"name": "os:getcwd"}]}, {"decoder": {"name": "os:getcwd"}}, {"backbone": "os:getcwd"}):
        path.write_text(json.dumps({**config, **foreign}))
        with pytest.raises(SettingError, match="os:getcwd"):
            Captioner.load(tmp_path / "saved")
    bridge = {"name": "capdec.bridges.gaussian_noise:GaussianNoise", "std": 0.1}
    path.write_text(json.dumps({**config, "bridges": [bridge]}))
    assert Captioner.load(tmp_path / "saved", own_parts=True).bridges[0].std == 0.1


def test_an_opened_photo_and_its_file_get_the_same_caption(tmp_path, tiny_captioner):
    photo = _photos(1)[0]
    exif = photo.getexif()
    exif[0x0112] = 6  # lying on its side
    photo.save(tmp_path / "photo.png", exif=exif)
    assert tiny_captioner.caption([Image.open(tmp_path / "photo.png")]) == tiny_captioner.caption([tmp_path / "photo.png"])


def test_weights_of_another_shape_are_refused(tmp_path, tiny_captioner):
    tiny_captioner.save(tmp_path / "saved")
    path = tmp_path / "saved/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "decoder": {**config["decoder"], "width": 48}}))
    with pytest.raises(MismatchError, match="do not fit"):
        Captioner.load(tmp_path / "saved")


def test_the_embedded_captioner_travels_in_the_package_and_fits_in_40_megabytes():
    captioner = Captioner.load()
    assert captioner.supervision.words() == "text + settings chosen on pairs"
    assert captioner.supervision_on("flickr8k").words().endswith("+ backbone trained on this dataset's pairs")
    assert all(caption.text for caption in captioner.caption(_photos(2)))
    root = locate("flickr").parent
    assert sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) < 40e6
    assert sum(file.stat().st_size for file in (root / "mini").iterdir()) < 15e6


def test_models_in_a_folder_are_listed(tmp_path, tiny_captioner):
    tiny_captioner.save(tmp_path / "runs" / "mine")
    names = [name for name, _, _ in listing(tmp_path)]
    assert {"mini", "flickr", str(tmp_path / "runs" / "mine")} <= set(names)


def test_a_hub_id_is_fetched_at_its_revision(tmp_path, tiny_captioner, monkeypatch):
    import huggingface_hub

    tiny_captioner.save(tmp_path / "remote")
    asked = {}

    def fetch(repository: str, revision: str | None = None, **_: object) -> str:
        asked.update(repository=repository, revision=revision)
        return shutil.copytree(tmp_path / "remote", tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert Captioner.load("someone/captioner@v2").backbone.dim == 16
    assert asked == {"repository": "someone/captioner", "revision": "v2"}


def test_pushing_uploads_the_folder_without_the_training_state(tmp_path, tiny_captioner, monkeypatch):
    import huggingface_hub

    calls = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, *a, **k: calls.append(("create", a, k)))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **k: calls.append(("upload", k)) or "https://hub/someone/mine")
    tiny_captioner.save(tmp_path / "saved")
    assert tiny_captioner.push_to_hub("someone/mine", tmp_path / "saved") == "https://hub/someone/mine"
    assert calls[1][1]["ignore_patterns"] == ["training/*", "embeddings/*"]
    with pytest.raises(DataError, match="save"):
        tiny_captioner.push_to_hub("someone/mine", tmp_path / "nowhere")


def test_a_decoding_that_cannot_be_is_refused_here_too(tiny_captioner):
    for wrong, said in ((Decoding(candidates=5), "name a rerank"), (Decoding(beams=0), "at least 1")):
        with pytest.raises(SettingError, match=said):
            tiny_captioner.caption_embeddings(torch.randn(2, 16), wrong)
