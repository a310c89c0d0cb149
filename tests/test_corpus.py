import json

import pytest
import torch

from capdec import parts
from capdec.corpus import embed, open_dataset, read_pairs
from capdec.errors import DataError, MismatchError, SettingError


@pytest.fixture
def backbone(tiny_backbone):
    return parts.build("backbones", tiny_backbone)


def test_the_store_holds_unit_rows_and_their_lengths(tmp_path, backbone, captions_file, monkeypatch):
    monkeypatch.setattr("capdec.corpus.SHARD", 50)
    pairs = read_pairs(open_dataset(str(captions_file)))
    corpus = embed(pairs, backbone, tmp_path / "store")
    assert len(list((tmp_path / "store").glob("?????.npy"))) == 5
    rows = torch.tensor([0, 49, 50, 239, 7])
    texts = [pairs.sources[row] for row in rows.tolist()]
    torch.testing.assert_close(corpus.embeddings[rows], backbone.encode_text(texts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.from_numpy(corpus.embeddings.norms)[rows], backbone.encode_text(texts, normalize=False).norm(dim=1), rtol=1e-4, atol=1e-5
    )
    assert sum(len(chunk) for chunk in corpus.embeddings.chunks()) == len(corpus) == 240


def test_a_store_that_was_cut_off_continues_with_the_shards_that_are_missing(tmp_path, backbone, captions_file, monkeypatch):
    monkeypatch.setattr("capdec.corpus.SHARD", 50)
    pairs = read_pairs(open_dataset(str(captions_file)))
    embed(pairs, backbone, tmp_path / "store")
    kept = (tmp_path / "store/00000.npy").stat().st_mtime_ns
    (tmp_path / "store/00003.npy").unlink()
    encoded = []
    monkeypatch.setattr(type(backbone), "encode_text", lambda self, texts, normalize: encoded.extend(texts) or torch.ones(len(texts), 16))
    embed(pairs, backbone, tmp_path / "store")
    assert encoded == pairs.sources[150:200] and (tmp_path / "store/00000.npy").stat().st_mtime_ns == kept


@pytest.mark.parametrize(("first", "then"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_store_computed_in_another_precision_is_refused(tmp_path, backbone, captions_file, first, then):
    pairs = read_pairs(open_dataset(str(captions_file)))
    backbone.dtype = first
    embed(pairs, backbone, tmp_path / "store")
    embed(pairs, backbone, tmp_path / "store")
    backbone.dtype = then
    with pytest.raises(MismatchError, match="computed_in is"):
        embed(pairs, backbone, tmp_path / "store")


def test_a_store_of_other_text_or_another_backbone_is_refused(tmp_path, backbone, captions_file):
    pairs = read_pairs(open_dataset(str(captions_file)))
    embed(pairs, backbone, tmp_path / "store")
    pairs.sources[3] += "!"
    with pytest.raises(MismatchError, match="text is"):
        embed(pairs, backbone, tmp_path / "store")


def test_sources_are_joined_to_targets_by_image(tmp_path):
    targets, sources = tmp_path / "t.jsonl", tmp_path / "s.jsonl"
    targets.write_text('{"image_id": "1", "captions": ["ein Hund", "der Hund", "Hunde"]}\n{"image_id": "9", "captions": ["niemand"]}\n')
    sources.write_text('{"image_id": "1", "captions": ["a dog", "the dog"]}\n')
    pairs = read_pairs(open_dataset(str(targets)), open_dataset(str(sources)))
    assert list(zip(pairs.sources, pairs.targets, strict=True)) == [("a dog", "ein Hund"), ("the dog", "der Hund"), ("a dog", "Hunde")]
    sources.write_text('{"image_id": "1", "caption": "a dog"}\n{"image_id": "1", "caption": "the dog"}\n')
    assert read_pairs(open_dataset(str(targets)), open_dataset(str(sources))).sources == pairs.sources, "a row each, or all in one"
    (tmp_path / "t.csv").write_text("image_id,caption\n1,ein Hund\n1,der Hund\n9,niemand\n1,Hunde\n")
    assert read_pairs(open_dataset(str(tmp_path / "t.csv")), open_dataset(str(sources))) == pairs, "and so are targets"
    sources.write_text('{"image_id": "2", "captions": ["a dog"]}\n')
    with pytest.raises(DataError, match="no image_id is in both"):
        read_pairs(open_dataset(str(targets)), open_dataset(str(sources)))


def test_captions_without_a_source_are_counted(tmp_path):
    for name, ids in (("plain", "12"), ("some", "29")):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"image_id": one, "captions": ["a dog", "it"]}) + "\n" for one in ids))
    plain, some = (open_dataset({"path": str(tmp_path / f"{name}.jsonl"), "as": name}) for name in ("plain", "some"))
    pairs = read_pairs(some, plain)
    assert (len(pairs), pairs.unjoined) == (2, {"some": 2}) and not read_pairs(plain, plain).unjoined


def test_siblings_are_the_other_captions_of_a_photo(tmp_path, backbone):
    path = tmp_path / "c.jsonl"
    rows = [{"image_id": "1", "captions": ["a dog", "the dog", "a dog"]}, {"image_id": "2", "captions": ["a cat"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = embed(read_pairs(open_dataset(str(path))), backbone, tmp_path / "store")
    assert corpus.siblings() == {0: [1], 1: [0, 2], 2: [1]}
    (tmp_path / "styled.jsonl").write_text(json.dumps({"image_id": "1", "captions": ["o dog"]}) + "\n")
    styled = embed(read_pairs(open_dataset(str(tmp_path / "styled.jsonl")), open_dataset(str(path))), backbone, tmp_path / "styled")
    assert styled.siblings() == {0: [1], 1: [0, 2], 2: [1]}, "one caption, told from several"


def test_files_are_recognised_and_an_unknown_one_says_what_is_known(tmp_path):
    with pytest.raises(DataError, match=r"captions\.doc does not exist"):
        open_dataset(str(tmp_path / "captions.doc"))
    (tmp_path / "captions.doc").write_text("a dog")
    with pytest.raises(SettingError, match=r"\.jsonl"):
        open_dataset(str(tmp_path / "captions.doc"))


def test_captions_that_are_cut_are_counted_once_for_all_batches(tmp_path, backbone):
    path = tmp_path / "long.txt"
    path.write_text("\n".join("a dog and " * 30 + str(n) for n in range(1030)))
    with pytest.warns(UserWarning) as caught:
        embed(read_pairs(open_dataset(str(path))), backbone, tmp_path / "store")
    assert [str(one.message) for one in caught] == ["1030 of 1030 captions are longer than the backbone reads: their ends were cut."]
