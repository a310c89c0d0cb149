"""Tiny real objects for the tests, and shapes in signatures checked: jaxtyping's hook wraps every annotated function of the package in beartype."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from PIL import Image

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as every type checker has it
install_import_hook("capdec", "conftest.check")
torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much on a busy machine

DECODER = {"name": "small_transformer", "layers": 1, "width": 32, "heads": 2, "prefix": 2, "vocabulary": 400, "max_tokens": 24, "dropout": 0.1}


@pytest.fixture
def tiny_backbone(tmp_path: Path) -> dict:
    """A mini with random weights, as a recipe names it."""
    from capdec.backbones.mini import Mini

    torch.manual_seed(0)
    Mini.tiny(tmp_path)
    return {"name": "mini", "folder": str(tmp_path / "tiny_mini")}


@pytest.fixture
def captions_file(tmp_path: Path) -> Path:
    """80 photos with three captions each."""
    who, what = ["a man", "a woman", "two dogs", "a child", "a red car"], ["runs on grass", "sits on a bench", "jumps into water", "looks up"]
    path = tmp_path / "captions.jsonl"
    with path.open("w") as file:
        for photo in range(80):
            subject, action = who[photo % 5], what[photo // 5 % 4]
            captions = [f"{subject} {action}", f"{subject} that {action} number {photo}", f"here {subject} {action} ."]
            file.write(json.dumps({"image_id": f"photo-{photo}", "captions": captions}) + "\n")
    return path


@pytest.fixture
def tiny_captioner(tmp_path: Path, tiny_backbone: dict):
    """Untrained, but whole."""
    from capdec import parts
    from capdec.captioner import Captioner

    torch.manual_seed(0)
    backbone = parts.build("backbones", tiny_backbone)
    bridge = {"name": "gaussian_noise", "std": 0.1}
    decoder = parts.build("decoders", DECODER, dim=backbone.dim)
    decoder.fit(["a man rides a horse", "two dogs run over the grass", "a red car on a street"] * 5)
    return Captioner(
        backbone, [parts.build("bridges", bridge, dim=16)], decoder.eval(), {"backbone": tiny_backbone, "bridges": [bridge], "decoder": DECODER}
    )


@pytest.fixture
def shard(tmp_path: Path) -> dict:
    """Six photos with two captions each."""
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for n in range(6):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(buffer, "JPEG")
            record = json.dumps({"image_id": f"p{n}", "captions": [f"a man {n}", "two dogs"]}).encode()
            for suffix, data in (("jpg", buffer.getvalue()), ("json", record)):
                info = tarfile.TarInfo(f"p{n}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return {"path": str(tmp_path / "photos.tar"), "dataset": "tiny", "split": "val"}


@pytest.fixture
def photos(tmp_path):
    """Photos of half of captions_file's ids, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(40):
        Image.new("RGB", (16, 12), (6 * n, 120, 250 - 6 * n)).save(folder / f"{n:03d}.png")
        (folder / f"{n:03d}.json").write_text(json.dumps({"image_id": f"photo-{n}", "captions": ["a photo"]}))
    (folder / "007.png").write_bytes(b"\x89PNG and no more")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return str(tmp_path / "photos.tar")
