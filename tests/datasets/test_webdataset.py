import io
import json
import pickle
import tarfile

import pytest
from PIL import Image

from capdec.datasets.webdataset import WebDataset
from capdec.errors import DataError, ImageError


def photo(colour: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, kind)
    return file.getvalue()


def shard(path, files: dict[str, bytes], mode: str = "w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_texts_come_from_json_or_txt_and_images_when_asked_for(tmp_path):
    path = shard(
        tmp_path / "0.tar",
        {
            "a.jpg": photo("red", "JPEG"),
            "a.json": json.dumps({"image_id": 7, "captions": ["a red  wall", ""]}).encode(),
            "b.txt": "ein blaues Wändchen\n".encode(),
            "b.PNG": photo("blue"),
            "deep/a.webp": photo("white", "WEBP"),
            "deep/a.json": json.dumps({"caption": "a white wall"}).encode(),
            "img2dataset.json": json.dumps({"caption": None, "status": "failed"}).encode(),
            "both.json": json.dumps({"url": "https://example.org"}).encode(),
            "both.txt": b"a text",
            "both.cls": b"3",
            "photo-only.png": photo("black"),
        },
    )
    examples = list(WebDataset(path))
    assert [(example.image_id, example.captions) for example in examples] == [
        ("7", ("a red wall",)),
        ("b", ("ein blaues Wändchen",)),
        ("deep/a", ("a white wall",)),
        ("both", ("a text",)),
        ("photo-only", ()),
    ]
    seen = [example.open_image and example.open_image().getpixel((4, 3)) for example in examples]
    assert seen == [(254, 0, 0), (0, 0, 255), (255, 255, 255), None, (0, 0, 0)]


def test_shards_come_by_pattern_or_list_in_order_and_twice(tmp_path):
    for number in (2, 0, 1):
        shard(tmp_path / f"{number}.tar", {f"{number}.txt": f"caption {number}".encode()})
    for path in (str(tmp_path / "*.tar"), [tmp_path / "0.tar", f"{tmp_path}/[12].tar"]):
        dataset = WebDataset(path)
        assert [example.captions[0] for example in dataset] == ["caption 0", "caption 1", "caption 2"]
        assert len(list(dataset)) == 3


def test_an_example_can_be_sent_to_another_process(tmp_path):
    first = pickle.loads(pickle.dumps(next(iter(WebDataset.tiny(tmp_path)))))
    assert first.image_id == "photo-0" and first.open_image().size == (8, 6)


def test_a_broken_shard_is_named(tmp_path):
    whole = shard(tmp_path / "whole.tar", {f"{number}.txt": b"a caption" * 200 for number in range(5)}).read_bytes()
    broken = tmp_path / "broken.tar"
    in_a_header, in_a_text = 3 * (512 + 2048) + 100, 3 * (512 + 2048) + 700
    spoilt = whole[: in_a_header - 100] + b"spoilt" * 20 + whole[in_a_header + 20 :]
    for content in (b"", b"not a tar" * 100, whole[:in_a_header], whole[:in_a_text], spoilt):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.tar"):
            list(WebDataset(broken))
    with pytest.raises(DataError, match=r"none\.tar cannot be read"):
        list(WebDataset(tmp_path / "none.tar"))
    with pytest.raises(DataError, match="uncompressed"):
        list(WebDataset(shard(tmp_path / "0.tar", {"a.txt": b"a dog"}, "w:gz")))


def test_a_text_that_cannot_be_used_is_named_by_shard_and_key(tmp_path):
    for name, content in {"k.json": b"{broken", "k.txt": b"H\xfcndchen"}.items():
        with pytest.raises(DataError, match=r"0\.tar: the text of 'k'"):
            list(WebDataset(shard(tmp_path / "0.tar", {name: content})))
    for record in ([], {"captions": [3]}, {"caption": 3}):
        with pytest.raises(DataError, match=r"0\.tar: the text of 'k'"):
            list(WebDataset(shard(tmp_path / "0.tar", {"k.json": json.dumps(record).encode()})))


def test_a_shard_without_captions_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no photos and no captions"):
        list(WebDataset(shard(tmp_path / "0.tar", {"a.cls": b"3"})))
    (bare,) = WebDataset(shard(tmp_path / "1.tar", {"a.png": photo("red")}))
    assert (bare.image_id, bare.captions) == ("a", ()) and bare.open_image().size == (8, 6)


def test_a_broken_image_is_named_by_shard_and_key(tmp_path):
    (example,) = WebDataset(shard(tmp_path / "0.tar", {"k.png": photo("red")[:40], "k.txt": b"a red wall"}))
    with pytest.raises(ImageError, match=r"'k' in .*0\.tar"):
        example.open_image()
