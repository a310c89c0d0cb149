import json
import os
import pickle
from hashlib import sha256
from pathlib import Path

import pytest

from capdec.corpus import read_pairs
from capdec.datasets.flickr8k import Flickr8k
from capdec.datasets.flickr_style import FlickrStyle, _strings
from capdec.errors import DataError, SettingError

DATA = Path(__file__).parent.parent / "data"
RELEASE = DATA / "flickr_style"


def release(folder: Path, names: list[str], captions: bytes) -> Path:
    (folder / "romantic").mkdir(exist_ok=True, parents=True)
    (folder / "romantic/train.p").write_bytes(pickle.dumps(names, protocol=0))
    (folder / "romantic/romantic_train.txt").write_bytes(captions)
    return folder


def whole(folder: Path, photos: int = 7_000) -> Path:
    return release(folder, [f"{number}_5e0e391a80.jpg" for number in range(photos)], b"a dog in love\n" * photos)


def ids(dataset: FlickrStyle) -> list[str | None]:
    return [example.image_id for example in dataset]


def test_the_sample_in_the_owners_layout_is_read_in_both_styles():
    for style, said in (("romantic", "a caf\xe9 wall"), ("humorous", "forgot its house")):
        read = {split: FlickrStyle(RELEASE, split, images=RELEASE, partial=True, style=style) for split in ("train", "test")}
        assert sorted(ids(read["train"]) + ids(read["test"])) == ["101", "102", "103"]
        captions = [caption for dataset in read.values() for example in dataset for caption in example.captions]
        assert any(said in caption.replace("green ", "") for caption in captions), captions
        assert all(example.open_image().size == (8, 6) for dataset in read.values() for example in dataset)
        assert read["test"].left_out == 999 and read["train"].name == "flickr8k+flickrstyle10k"


def test_it_joins_with_the_factual_captions_of_flickr8k():
    pairs = read_pairs(FlickrStyle(RELEASE, "train", partial=True), Flickr8k(DATA / "flickr8k/dataset_flickr8k.json", "val", partial=True))
    assert pairs.sources == ["A blue wall.", "A wall in blue."], "the one romantic caption is told from each factual one"
    assert pairs.targets == ["a blue wall in love with the evening ."] * 2


def test_the_split_is_6000_and_1000_photos_and_depends_on_nothing_but_their_numbers(tmp_path):
    folder = whole(tmp_path)
    train, test = FlickrStyle(folder, "train"), FlickrStyle(folder, "test")
    assert (len(ids(train)), len(ids(test)), len({*ids(train), *ids(test)})) == (6_000, 1_000, 7_000)
    assert (train.left_out, test.left_out) == (0, 0)
    backwards = release(tmp_path / "b", [f"{number}_5e0e391a80.jpg" for number in reversed(range(7_000))], b"a dog\n" * 7_000)
    assert {*ids(FlickrStyle(backwards, "test"))} == {*ids(test)}
    assert {*ids(test)} == {*sorted(map(str, range(7_000)), key=lambda number: sha256(number.encode()).hexdigest())[:1_000]}


def test_a_part_of_the_release_is_refused_unless_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"6,999 captions in style romantic, and 7,000 were published.*FlickrStyle_v0\.9\.zip"):
        FlickrStyle(whole(tmp_path, 6_999))
    with pytest.raises(DataError, match=r"photos are missing.*forms\.illinois\.edu"):
        FlickrStyle(RELEASE, images=DATA / "nocaps", partial=True)


def test_a_papers_own_split_is_a_list_of_ids(tmp_path):
    folder = whole(tmp_path)
    (tmp_path / "ids.txt").write_text("17\n3_5e0e391a80.jpg\n\n17\n6999\n")
    dataset = FlickrStyle(folder, "val", ids=tmp_path / "ids.txt")
    assert ids(dataset) == ["17", "3", "6999"] and (dataset.split, dataset.left_out) == ("val", 0)
    (tmp_path / "ids.txt").write_text("17\n7001\n")
    with pytest.raises(DataError, match=r"1 of 2 ids of .*ids\.txt are not in .*: 7001"):
        FlickrStyle(folder, ids=tmp_path / "ids.txt")
    partly = FlickrStyle(folder, ids=tmp_path / "ids.txt", partial=True)
    assert ids(partly) == ["17"] and partly.left_out == 1
    (tmp_path / "ids.txt").write_text("\n")
    with pytest.raises(DataError, match=r"no captions of style romantic for .*ids\.txt"):
        FlickrStyle(folder, ids=tmp_path / "ids.txt", partial=True)
    with pytest.raises(DataError, match=r"none\.txt cannot be read.*an image id"):
        FlickrStyle(folder, ids=tmp_path / "none.txt")


def test_lines_of_json_are_read_too(tmp_path):
    path = tmp_path / "romantic.jsonl"
    lines = [{"image_id": str(100 + number), "captions": [f"love {number}", " "]} for number in range(1, 4)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    dataset = FlickrStyle(path, "train", images=RELEASE, partial=True)
    assert len(ids(dataset)) == 2 and all(example.open_image().size == (8, 6) for example in dataset)
    assert {caption for example in dataset for caption in example.captions} <= {"love 1", "love 2", "love 3"}
    path.write_text('{"image_id": 1}\n')
    with pytest.raises(DataError, match=r"romantic\.jsonl:1 cannot be used"):
        FlickrStyle(path, partial=True)


def test_photos_are_also_found_under_flickr30ks_names(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"{100 + number}.jpg").write_bytes((RELEASE / f"{100 + number}_{number:010x}.jpg").read_bytes())
    assert all(example.open_image().size == (8, 6) for example in FlickrStyle(RELEASE, images=tmp_path, partial=True))


def test_lines_that_are_no_captions_do_not_shift_the_others(tmp_path):
    names = [f"{number}_5e0e391a80.jpg" for number in range(8)]
    lines = [b"dog %d\xb4s love \x97 at 8" % number for number in range(8)]
    for captions in (b"\n".join(lines), b"\r\n".join(lines) + b"\r\n", b"\n".join([*lines[:3], b" \x1a ", *lines[3:]]) + b"\n"):
        dataset = FlickrStyle(release(tmp_path, names, captions), "train", partial=True)
        assert len(ids(dataset)) == 6
        assert all(example.captions == (f"dog {example.image_id}\xb4s love \u2014 at 8",) for example in dataset)
    aligned = release(tmp_path, names, b"\n".join([b"", *lines[1:]]))
    assert "0" not in ids(FlickrStyle(aligned, "train", partial=True)) + ids(FlickrStyle(aligned, "test", partial=True))
    with pytest.raises(DataError, match=r"romantic_train\.txt has 7 captions for the 8 photos of train\.p"):
        FlickrStyle(release(tmp_path, names, b"\n".join(lines[1:])), partial=True)


def test_an_unknown_style_or_split_shows_the_choices():
    with pytest.raises(SettingError, match=r"romantic, humorous, not 'funny'"):
        FlickrStyle(RELEASE, style="funny")
    with pytest.raises(SettingError, match=r"train or test, not 'val'.*ids=FILE"):
        FlickrStyle(RELEASE, "val")


def test_a_folder_that_is_not_the_release_says_where_that_is(tmp_path):
    with pytest.raises(DataError, match=r"train\.p cannot be read.*FlickrStyle_v0\.9\.zip"):
        FlickrStyle(tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_list_of_names_is_read_as_pickle_would(tmp_path, protocol):
    again = "7_5e0e391a80.jpg"
    for names in ([], [again], [f"{number}_caf\xe9.jpg" for number in range(2_500)], [again, "8.jpg", again]):
        (tmp_path / "train.p").write_bytes(pickle.dumps(names, protocol=protocol))
        assert _strings(tmp_path / "train.p") == names


def test_a_list_of_byte_strings_as_python_2_pickles_it_is_read(tmp_path):
    for content in (b"(lp0\nS'1_a.jpg'\np1\naS'2_b.jpg'\np2\nag1\na.", b"\x80\x02]q\x00(U\x071_a.jpgq\x01U\x072_b.jpgq\x02h\x01e."):
        (tmp_path / "train.p").write_bytes(content)
        assert pickle.loads(content) == _strings(tmp_path / "train.p") == ["1_a.jpg", "2_b.jpg", "1_a.jpg"]


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_holds_more_than_a_list_of_strings_is_refused_and_nothing_of_it_runs(tmp_path, protocol, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (Harmful(), ["a.jpg", Harmful()], {"a": "b"}, [1], [None], ("a.jpg", "b.jpg"), [b"a.jpg"]):
        (tmp_path / "train.p").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match=r"train\.p is refused: byte \d+ has the opcode"):
            _strings(tmp_path / "train.p")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02]q\x00(U\x07", pickle.dumps(["a.jpg"])[:-1], b"g7\n."])
def test_a_damaged_pickle_is_an_error(tmp_path, content):
    (tmp_path / "train.p").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.p"):
        _strings(tmp_path / "train.p")
