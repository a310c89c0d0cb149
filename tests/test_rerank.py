from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from capdec.captioner import Captioner
from capdec.cider import cider
from capdec.errors import SettingError
from capdec.language import tokenizer
from capdec.protocols import Caption, Decoding
from capdec.rerank import by_clip, by_consensus, by_neighbours
from capdec.train import train
from conftest import DECODER


def captions(*texts):
    return [Caption(text, -float(place)) for place, text in enumerate(texts)]


def test_consensus_puts_first_what_the_others_agree_with():
    lists = [
        captions("a cat on a mat", "a brown dog runs", "a dog runs on grass", "a brown dog runs on grass"),
        captions("a boat"),
        captions("the same", "the same", "another thing"),
    ]
    first, second, third = by_consensus(lists)
    assert first[0].text == "a brown dog runs on grass" and first[-1].text == "a cat on a mat"
    assert [one.text for one in second] == ["a boat"]
    assert [one.score for one in third] == [0, -1, -2], "equals keep the decoder's order"
    assert by_consensus(lists[:1]) == [first], "a photo's order does not depend on the other photos"


def test_consensus_is_the_mean_cider_against_the_others():
    texts = ["a dog runs", "a dog runs on grass", "two dogs run on grass"]
    agreed = [cider([text], [texts[:place] + texts[place + 1 :]], idf=False)[0] for place, text in enumerate(texts)]
    assert [one.text for one in by_consensus([captions(*texts)])[0]] == [texts[place] for place in sorted(range(3), key=lambda n: -agreed[n])]
    assert cider(["a dog runs"], [["a dog runs"]], idf=False)[0] == pytest.approx(10 * 3 / 4), "it has no n-grams of four words"


def test_clip_puts_first_what_is_nearest_to_the_photo(tiny_captioner):
    backbone = tiny_captioner.backbone
    texts = ["a man rides a horse", "two dogs", "a red car"]
    photos = backbone.encode_text(["a red car", "a man rides a horse"]) * 3
    for ranked, photo in zip(by_clip([captions(*texts)] * 2, photos, backbone), photos, strict=True):
        cosines = backbone.encode_text([one.text for one in ranked]) @ F.normalize(photo, dim=-1)
        assert cosines.tolist() == sorted(cosines.tolist(), reverse=True)
        assert cosines[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("way", ["clip", "consensus"])
def test_a_captioner_ranks_what_it_was_asked_for(tiny_captioner, way):
    vectors = torch.randn(3, 16)
    decoding = Decoding(captions=4, max_tokens=8)
    plain, ranked = (tiny_captioner.caption_embeddings(vectors, one) for one in (decoding, replace(decoding, rerank=way)))
    for before, after in zip(plain, ranked, strict=True):
        assert {before.text, *(one.text for one in before.alternatives)} == {after.text, *(one.text for one in after.alternatives)}
    apart = torch.cat([torch.stack([vectors[:1], vectors[1:2]], 1)])  # a photo with a region beside it
    assert len(tiny_captioner.caption_embeddings(apart, replace(decoding, rerank=way))) == 1
    (best,) = tiny_captioner.caption_embeddings(vectors[:1], replace(decoding, captions=1, candidates=4, rerank=way, score_weight=1e-9))
    assert (best.text, best.alternatives) == (ranked[0].text, ())


@pytest.mark.parametrize("weight", [0.0, 0.5, 100.0])
def test_the_decoders_own_score_counts_as_much_as_is_asked(tiny_captioner, weight):
    texts, photo = ["a man rides a horse", "two dogs", "a red car"], torch.randn(1, 16)
    cosines = tiny_captioner.backbone.encode_text(texts) @ F.normalize(photo[0], dim=-1)
    wanted = sorted(range(3), key=lambda place: -(cosines[place].item() - weight * place))
    (ranked,) = by_clip([captions(*texts)], photo, tiny_captioner.backbone, weight)
    assert [one.text for one in ranked] == [texts[place] for place in wanted]


def test_neighbours_put_first_what_they_agree_with():
    ranked = by_neighbours([captions("a boat", "a dog runs on grass", "dogs")] * 2, [["a brown dog runs", "grass"], ["a boat"]])
    assert [found[0].text for found in ranked] == ["a dog runs on grass", "a boat"]
    assert [one.text for one in by_neighbours([captions("x", "y")], [["z"]])[0]] == ["x", "y"], "equals keep the decoder's order"


@pytest.mark.parametrize("bridge", ["memory_projection", "retrieval"])
def test_a_memory_that_keeps_its_texts_tells_them(captions_file, tiny_backbone, tmp_path, bridge):
    fast = {"steps": 6, "batch": 16, "warmup": 2, "evaluate_every": 3, "held_out": 0.2}
    plan = {"backbone": tiny_backbone, "decoder": DECODER, "training": fast}
    made = train(str(captions_file), tmp_path / "run", bridges=[{"name": bridge, "keep_texts": True, "size": 50}], **plan)
    loaded, photos = Captioner.load(tmp_path / "run"), F.normalize(torch.randn(5, 16), dim=-1)
    memory = loaded.memories[0]
    assert memory.texts == made.memories[0].texts and len(memory.texts) == len(memory.rows) == 50
    nearest = (photos @ memory.rows.float().T).topk(3).indices
    plain = loaded.caption_embeddings(photos, Decoding(captions=5, max_tokens=8))
    ranked = loaded.caption_embeddings(photos, Decoding(candidates=5, max_tokens=8, rerank="neighbours", neighbours=3))
    for before, after, rows in zip(plain, ranked, nearest.tolist(), strict=True):
        lists = [[replace(before, alternatives=()), *before.alternatives]]
        assert after == by_neighbours(lists, [[memory.texts[row] for row in rows]])[0][0]
    train(str(captions_file), tmp_path / "silent", bridges=[{"name": bridge}], **plan)
    with pytest.raises(SettingError, match="keep_texts = true"):
        Captioner.load(tmp_path / "silent").caption_embeddings(photos, Decoding(captions=2, rerank="neighbours"))


def test_agreement_is_of_the_tokens_of_the_language():
    texts = [captions("ein Hund", "ein schwarz/weißer Hund rennt")]
    said = ["ein schwarz, weißer Hund rennt"]
    assert by_neighbours(texts, [said], language="de")[0][0].text == "ein schwarz/weißer Hund rennt"
    assert cider(["ein schwarz weißer hund rennt"], [[tokenizer("de")(said[0])]], idf=False)[0] == pytest.approx(10)
