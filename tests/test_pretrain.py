import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from capdec.backbones.mini import Mini
from capdec.checkpoint import read_tensors
from capdec.errors import DataError
from capdec.pretrain import epoch_rows, photos_through, pretrain, seeded, windows_of

TEACHER = """
import torch
class Teacher(torch.nn.Module):
    def forward(self, images):
        return {"grid": torch.nn.functional.adaptive_avg_pool2d(images, 7).repeat(1, 4, 1, 1).clamp(0, 6)}
"""
TINY = {"widths": (8, 8, 8, 8), "blocks": (1, 1, 1, 1), "features": 16, "text_width": 32, "text_layers": 1, "dim": 16}
STEPS = {"word_steps": 3, "head_steps": 3, "distil_steps": 4, "align_steps": 3, "batch": 4, "word_batch": 4, "align_batch": 4, "sizes": (32, 64)}


@pytest.fixture
def material(tmp_path):
    generator = np.random.default_rng(0)
    for name, captioned in (("train", True), ("plain", False)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for n in range(6):
                buffer = io.BytesIO()
                Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
                files = [("jpg", buffer.getvalue())]
                if captioned:
                    files.append(("json", json.dumps({"image_id": f"{n}", "captions": [f"a man {n}", f"dogs {n}"]}).encode()))
                for suffix, data in files:
                    info = tarfile.TarInfo(f"{n:03d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"image_id": n, "captions": [f"a man {n}", f"one dog {n}"]}) + "\n" for n in range(9)))
    (tmp_path / "teacher.py").write_text(TEACHER)
    shards = [str(tmp_path / "train.tar"), str(tmp_path / "plain.tar")]
    common = {"vocabulary": 300, "architecture": TINY, "trained_on_pairs": ["tiny"], **STEPS}
    return (shards, [str(tmp_path / "texts.jsonl")], shards[:1], f"{tmp_path / 'teacher.py'}:Teacher"), common


def test_a_mini_is_trained_and_one_cut_off_in_any_stage_ends_with_the_same_weights(tmp_path, material):
    inputs, common = material
    scores = pretrain(*inputs, output=str(tmp_path / "whole"), **common)
    assert set(scores) == {f"{way}_R@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)}
    mini = Mini(str(tmp_path / "whole"))
    assert mini.dim == 16 and mini.trained_on_pairs == {"tiny"}

    for stage in ("words", "head", "distil"):  # as if each time the machine had stopped after this stage
        pretrain(*inputs, output=str(tmp_path / "cut"), **common)
        later = ("words", "head", "distil", "align")
        for name in later[later.index(stage) + 1 :]:
            (tmp_path / "cut" / "work" / f"{name}.safetensors").unlink()
        pretrain(*inputs, output=str(tmp_path / "cut"), **common)
        whole, cut = (read_tensors(tmp_path / run / "mini.safetensors")[0] for run in ("whole", "cut"))
        assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_second_load_of_photos_starts_from_the_weights_of_the_first(tmp_path, material):
    inputs, common = material
    pretrain(*inputs, output=str(tmp_path / "first"), **common)
    still = {**common, "word_steps": 0, "head_steps": 0, "distil_steps": 0, "align_steps": 0}
    pretrain(*inputs, output=str(tmp_path / "second"), init=str(tmp_path / "first/mini.safetensors"), **still)
    first, second = (read_tensors(tmp_path / run / "mini.safetensors")[0] for run in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_photos_without_any_captions_are_refused(tmp_path, material):
    (shards, texts, calibration, teacher), common = material
    with pytest.raises(DataError, match="captions"):
        pretrain(shards[1:], texts, calibration, teacher, output=str(tmp_path / "out"), **common)


def test_the_whole_window_shows_the_whole_photo_and_windows_stay_inside():
    photo = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8)
    whole = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
    seen = photos_through(photo, whole, 32, seeded(0, 0))
    ranks = [torch.argsort(torch.argsort(image.mean(1).flatten())).float() for image in (photo.float(), seen)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.99, "only brightness, contrast and saturation differ"
    windows = windows_of(500, seeded(0, 1))
    assert (windows[:, 0, 0].abs() + windows[:, 0, 2].abs() <= 1 + 1e-5).all() and (windows[:, 1, 1] + windows[:, 1, 2].abs() <= 1 + 1e-5).all()


def test_every_row_comes_once_an_epoch():
    rows = torch.cat([epoch_rows(12, 4, step, seed=3) for step in range(3)])
    assert sorted(rows.tolist()) == list(range(12))
