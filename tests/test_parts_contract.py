"""Every part found in the folders keeps its protocol. No list of names: a new file is covered the moment it is there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from capdec import parts, protocols
from capdec.errors import SettingError, UnknownPart
from capdec.protocols import Condition, Decoding

EVERY_PART = [(kind, name) for kind in parts.KINDS for name in parts.names(kind)]
BRIDGES, DECODERS, BACKBONES, DATASETS = (parts.names(kind) for kind in ("bridges", "decoders", "backbones", "datasets"))
CAPTIONS = ["a man rides a horse", "two dogs run over the grass and play", "a man"]
PROTOCOLS = {
    "backbones": protocols.Backbone,
    "bridges": protocols.Bridge,
    "decoders": protocols.Decoder,
    "datasets": protocols.Dataset,
    "metrics": protocols.Metric,
}


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_a_part_is_found_by_its_file_and_keeps_its_protocol(kind, name, tmp_path):
    part = parts.find(kind, name).tiny(tmp_path)
    assert isinstance(part, PROTOCOLS[kind])


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_an_unknown_setting_is_an_error_that_shows_the_choices(kind, name):
    known = next(iter(parts.settings(parts.find(kind, name))), "none")
    with pytest.raises(SettingError, match=known):
        parts.build(kind, {"name": name, "no_such_setting": 1})


@pytest.mark.parametrize("kind", parts.KINDS)
def test_an_unknown_name_is_an_error_that_shows_the_choices(kind):
    with pytest.raises(UnknownPart, match=parts.names(kind)[0]):
        parts.build(kind, "no_such_part")


@pytest.mark.parametrize("name", BRIDGES)
def test_a_bridge_keeps_shapes_and_is_restored_from_its_tensors(name, tmp_path):
    bridge = parts.find("bridges", name).tiny(tmp_path)
    condition = Condition.of(torch.nn.functional.normalize(torch.randn(5, 16), dim=-1))
    for side in (bridge.from_text, bridge.from_image):
        crossed = side(condition, torch.Generator().manual_seed(0))
        again = side(condition, torch.Generator().manual_seed(0))
        assert crossed.embeddings.shape[0] == 5 and crossed.embeddings.shape[2] == 16
        assert torch.equal(crossed.embeddings, again.embeddings), "the generator decides everything random"
    other = parts.find("bridges", name).tiny(tmp_path)
    other.restore(bridge.tensors())
    assert torch.equal(other.from_image(condition, torch.Generator().manual_seed(0)).embeddings, crossed.embeddings)
    assert isinstance(bridge.supervision, protocols.Supervision)


def _decoder(name, folder):
    torch.manual_seed(0)
    decoder = parts.find("decoders", name).tiny(folder)
    decoder.fit(CAPTIONS * 4)
    return decoder.eval()


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_comes_back_from_a_folder_with_the_same_log_probabilities(name, tmp_path):
    decoder = _decoder(name, tmp_path)
    condition = Condition.of(torch.randn(3, 16))
    before = decoder.log_prob(condition, CAPTIONS)
    (tmp_path / "saved").mkdir()
    decoder.save(tmp_path / "saved")
    other = parts.find("decoders", name).tiny(tmp_path)
    other.load(tmp_path / "saved")
    other.load_state_dict(decoder.state_dict())
    after = other.eval().log_prob(condition, CAPTIONS)
    torch.testing.assert_close(before.total, after.total)
    assert torch.equal(before.tokens, after.tokens)


@pytest.mark.parametrize("name", DECODERS)
def test_log_prob_of_a_batch_is_that_of_its_captions_one_by_one(name, tmp_path):
    decoder = _decoder(name, tmp_path)
    embeddings = torch.randn(3, 16)
    batch = decoder.log_prob(Condition.of(embeddings), CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        alone = decoder.log_prob(Condition.of(embeddings[index : index + 1]), [caption])
        torch.testing.assert_close(alone.total[0], batch.total[index], rtol=1e-4, atol=1e-4)
        assert alone.tokens[0] == batch.tokens[index]


@pytest.mark.parametrize("name", DECODERS)
def test_rows_that_are_masked_change_nothing(name, tmp_path):
    decoder = _decoder(name, tmp_path)
    alone = torch.randn(3, 1, 16)
    padded = torch.cat([alone, torch.randn(3, 2, 16)], 1)
    mask = torch.tensor([[True, False, False]] * 3)
    plain, masked = decoder.log_prob(Condition.of(alone), CAPTIONS), decoder.log_prob(Condition(padded, mask), CAPTIONS)
    if decoder.mapper(padded, mask)[0].shape[1] == decoder.mapper(alone, mask[:, :1])[0].shape[1]:  # else positions shift
        torch.testing.assert_close(plain.total, masked.total, rtol=1e-4, atol=1e-4)
    other = padded.clone()
    other[:, 1:] = torch.randn(3, 2, 16)
    torch.testing.assert_close(masked.total, decoder.log_prob(Condition(other, mask), CAPTIONS).total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", ["beam", "greedy", "nucleus"])
@pytest.mark.parametrize("name", DECODERS)
def test_captions_do_not_depend_on_the_batch_and_scores_are_log_probabilities(name, strategy, tmp_path):
    decoder = _decoder(name, tmp_path)
    embeddings = torch.randn(6, 16) * 3
    decoding = Decoding(strategy, captions=1 if strategy == "greedy" else 3, max_tokens=9, seed=5)
    together = decoder.generate(Condition.of(embeddings), decoding)
    for index in range(6):
        (alone,) = decoder.generate(Condition.of(embeddings[index : index + 1]), replace(decoding, seed=5 + index))
        assert [caption.tokens for caption in alone] == [caption.tokens for caption in together[index]]
        assert all(caption.score <= 0 for caption in alone)
        assert sorted((c.score for c in alone), reverse=True) == [c.score for c in alone]


@pytest.mark.parametrize("name", DECODERS)
def test_a_prompt_is_read(name, tmp_path):
    decoder = _decoder(name, tmp_path)
    condition = replace(Condition.of(torch.randn(3, 16)), prompts=("dogs", "a man and a horse", "grass"))
    with_prompt = decoder.log_prob(condition, CAPTIONS)
    assert not torch.allclose(with_prompt.total, decoder.log_prob(replace(condition, prompts=None), CAPTIONS).total)
    alone = decoder.log_prob(replace(Condition.of(condition.embeddings[:1]), prompts=("dogs",)), CAPTIONS[:1])
    assert torch.isfinite(alone.total).all()
    assert len(decoder.generate(condition, Decoding(max_tokens=5))) == 3


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_yields_examples_and_can_be_read_twice(name, tmp_path):
    dataset = parts.find("datasets", name).tiny(tmp_path)
    first, second = [example.captions for example in dataset], [example.captions for example in dataset]
    assert first and first == second
    assert all(isinstance(caption, str) and caption.strip() for captions in first for caption in captions)


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_knows_which_it_is_or_can_be_told(name, tmp_path):
    part = parts.find("datasets", name)
    told = [setting for setting in ("dataset", "split") if setting in parts.settings(part)]
    assert "split" in told and (part.tiny(tmp_path).name or "dataset" in told)
    if "dataset" in told:
        path = next(file for file in tmp_path.iterdir() if file.suffix in part.suffixes)
        dataset = part(path, dataset="walls", split="val")
        assert (dataset.name, dataset.split) == ("walls", "val")


@pytest.mark.parametrize("name", DATASETS)
def test_a_committed_sample_is_what_the_part_writes(name, tmp_path):
    parts.find("datasets", name).tiny(tmp_path)
    committed = Path(__file__).parent / "data" / name
    for file in filter(Path.is_file, committed.rglob("*")):
        written = tmp_path / file.relative_to(committed)
        assert written.is_file() and (file.suffix == ".jpg" or written.read_bytes() == file.read_bytes()), "run tests/data/make.py"


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_embeds_captions_and_images_into_one_space(name, tmp_path):
    from PIL import Image

    backbone = parts.find("backbones", name).tiny(tmp_path)
    texts = backbone.encode_text(CAPTIONS)
    images = backbone.encode_image([Image.new("RGB", (40, 30), color) for color in ("red", "blue")])
    assert texts.shape == (3, backbone.dim) and images.shape == (2, backbone.dim)
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(2))
    assert backbone.encode_text([]).shape == (0, backbone.dim) and backbone.encode_image([]).shape == (0, backbone.dim)
    alone = torch.cat([backbone.encode_text([caption]) for caption in CAPTIONS])
    torch.testing.assert_close(alone, texts, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(backbone.encode_text(CAPTIONS, normalize=False).norm(dim=-1), torch.ones(3))
    assert backbone.fingerprint and isinstance(backbone.trained_on_pairs, frozenset)
