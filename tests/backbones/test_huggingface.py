"""Against `transformers` itself, called plainly, on tiny random checkpoints in the hub's own folder format."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
from tokenizers import Tokenizer, models, processors
from transformers import (
    Aimv2Config,
    Aimv2Model,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ClapConfig,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from capdec.backbones.huggingface import HuggingFace, source
from capdec.captioner import Captioner
from capdec.errors import DataError, SettingError
from capdec.train import train
from conftest import DECODER

CAPTIONS = ["a dog", "Two children in Red hats run over the grass", "", "a man rides a horse", "A DOG"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def photos():
    pixels = np.random.default_rng(0)
    sizes = [(40, 30), (32, 32), (20, 64), (91, 57), (33, 48)]
    images = [Image.fromarray(pixels.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
    return [*images[:3], images[3].convert("L"), images[4].convert("RGBA")]


def letters_tokenizer(folder, tokenizer_class="PreTrainedTokenizerFast", letters=""):
    """Printable ASCII, further letters and an end, padded on the right, as SigLIP's are."""
    pieces = ["<pad>", "</s>", "<unk>", *map(chr, range(32, 127)), *letters]
    tokens = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", padding_side="right").save_pretrained(
        folder
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": tokenizer_class, "padding_side": "right"}))
    return {"vocab_size": len(pieces), "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 64}


def siglip(folder, vocabulary=None):
    texts = letters_tokenizer(folder)
    torch.manual_seed(1)
    config = SiglipConfig(
        text_config={**SIZES, **texts, "vocab_size": vocabulary or texts["vocab_size"]}, vision_config={**SIZES, "image_size": 32, "patch_size": 8}
    )
    SiglipModel(config).save_pretrained(folder)
    preprocessing = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))


def siglip2(folder, tokenizer_class="PreTrainedTokenizerFast", letters=""):
    texts = letters_tokenizer(folder, tokenizer_class, letters)
    torch.manual_seed(2)
    config = Siglip2Config(text_config={**SIZES, **texts}, vision_config={**SIZES, "num_patches": 16, "patch_size": 8})
    Siglip2Model(config).save_pretrained(folder)
    preprocessing = {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 16, "patch_size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    HuggingFace.tiny(folder)
    return folder


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    siglip(folder)
    return folder


@pytest.fixture(scope="module")
def siglip2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip2")
    siglip2(folder)
    return folder


@pytest.fixture
def clip(clip_folder):
    return HuggingFace(str(clip_folder))


def plain_text(folder, captions, **padding):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    inputs = tokenizer(captions, truncation=True, return_tensors="pt", **padding)
    if padding.get("padding") == "max_length":
        inputs.pop("attention_mask", None)
    with torch.no_grad():
        return model.get_text_features(**inputs).pooler_output


def plain_image(folder, images):
    processor, model = AutoImageProcessor.from_pretrained(folder, backend="pil"), AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.get_image_features(**processor(images=[image.convert("RGB") for image in images], return_tensors="pt")).pooler_output


def close(ours, plain):
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_clip_embeds_as_transformers_does(clip_folder, clip):
    close(clip.encode_text(CAPTIONS, normalize=False), plain_text(clip_folder, CAPTIONS, padding=True))
    close(clip.encode_image(photos(), normalize=False), plain_image(clip_folder, photos()))
    assert clip.dim == 16


def test_siglip_embeds_as_transformers_does_with_64_tokens_and_no_mask(siglip_folder):
    backbone = HuggingFace(str(siglip_folder))
    fixed = plain_text(siglip_folder, CAPTIONS[:4], padding="max_length", max_length=64)
    close(backbone.encode_text(CAPTIONS[:4], normalize=False), fixed)
    assert not torch.allclose(fixed, plain_text(siglip_folder, CAPTIONS[:4], padding="longest"), atol=1e-3), "the padding matters here"
    close(backbone.encode_image(photos(), normalize=False), plain_image(siglip_folder, photos()))
    assert backbone.dim == 32
    assert not torch.allclose(*backbone.encode_text(["a dog", "A DOG"]), atol=1e-3), "this SigLIP's tokenizer tells cases apart"


def test_siglip2_embeds_as_transformers_does_and_reads_lower_case(siglip2_folder):
    backbone = HuggingFace(str(siglip2_folder))
    lower = plain_text(siglip2_folder, [caption.lower() for caption in CAPTIONS], padding="max_length", max_length=64)
    close(backbone.encode_text(CAPTIONS, normalize=False), lower)
    close(backbone.encode_image(photos(), normalize=False), plain_image(siglip2_folder, photos()))
    close(*backbone.encode_text(["a dog", "A DOG"]))


def test_siglip2s_own_tokenizer_gives_the_same_as_plain_transformers(tmp_path):
    siglip2(tmp_path, "Siglip2Tokenizer")
    close(HuggingFace(str(tmp_path)).encode_text(CAPTIONS, normalize=False), plain_text(tmp_path, CAPTIONS, padding="max_length", max_length=64))


def test_a_siglip2_that_calls_itself_siglip_is_known_by_its_vocabulary(tmp_path):
    siglip(tmp_path, vocabulary=256_000)
    close(*HuggingFace(str(tmp_path)).encode_text(["a dog", "A DOG"]))


@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize("checkpoint", ["clip_folder", "siglip_folder", "siglip2_folder"])
def test_any_batch_size_gives_the_same(checkpoint, batch, request):
    folder = str(request.getfixturevalue(checkpoint))
    backbone, other = HuggingFace(folder), HuggingFace(folder, batch=batch)
    close(other.encode_text(CAPTIONS[:4]), backbone.encode_text(CAPTIONS[:4]))
    close(other.encode_image(photos()), backbone.encode_image(photos()))
    assert torch.allclose(other.encode_text(CAPTIONS[:4]).norm(dim=-1), torch.ones(4))


def test_aimv2_gives_the_same_with_and_without_padding(tmp_path, clip_folder):
    config = Aimv2Config(text_config={**SIZES, **letters_tokenizer(tmp_path)}, vision_config={**SIZES, "image_size": 32, "patch_size": 8})
    Aimv2Model(config).save_pretrained(tmp_path)
    shutil.copy(clip_folder / "preprocessor_config.json", tmp_path)
    backbone = HuggingFace(str(tmp_path))
    close(torch.cat([backbone.encode_text([caption]) for caption in CAPTIONS]), backbone.encode_text(CAPTIONS))


def test_nothing_gives_no_rows(clip):
    assert clip.encode_text([]).shape == (0, 16) and clip.encode_image([]).shape == (0, 16) and clip.encode_regions([], 3).shape == (0, 4, 16)


@pytest.mark.parametrize(("checkpoint", "reads"), [("clip_folder", 77), ("siglip_folder", 64)])
def test_truncation_is_reported_and_counted(checkpoint, reads, request):
    folder = request.getfixturevalue(checkpoint)
    backbone = HuggingFace(str(folder))
    long = ["dog " * 40, "a dog", "cat " * 40]
    with pytest.warns(UserWarning, match=f"2 of 3 captions are longer than the {reads} tokens") as caught:
        embeddings = backbone.encode_text(long, normalize=False)
    assert len(caught) == 1 and backbone.truncated == 2
    close(embeddings, plain_text(folder, long, padding="longest" if reads == 77 else "max_length", max_length=reads))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.encode_text(["a dog"])
    assert backbone.truncated == 2


def test_the_fingerprint_is_of_the_content(clip_folder, clip, tmp_path):
    copied = shutil.copytree(clip_folder, tmp_path / "copied")
    assert HuggingFace(str(copied)).fingerprint == clip.fingerprint
    clip.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    clip.tokenizer.save_pretrained(tmp_path / "shards")
    clip.processor.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert HuggingFace(str(tmp_path / "shards")).fingerprint == clip.fingerprint

    fingerprints = {clip.fingerprint, HuggingFace(str(clip_folder), dtype="bfloat16").fingerprint}
    clip.model.visual_projection.weight.data[3, 5] += 1e-3
    clip.model.save_pretrained(copied)
    fingerprints.add(HuggingFace(str(copied)).fingerprint)
    for name, key, value in [("config.json", "eos_token_id", 2), ("preprocessor_config.json", "do_center_crop", False)]:
        changed = shutil.copytree(clip_folder, tmp_path / name)
        settings = json.loads((changed / name).read_text())
        settings.get("text_config", settings)[key] = value
        (changed / name).write_text(json.dumps(settings))
        fingerprints.add(HuggingFace(str(changed)).fingerprint)
    assert len(fingerprints) == 5


def test_bfloat16_is_near_and_comes_back_as_float32(clip_folder, clip):
    half = HuggingFace(str(clip_folder), dtype="bfloat16")
    for ours, full in [(half.encode_text(CAPTIONS), clip.encode_text(CAPTIONS)), (half.encode_image(photos()), clip.encode_image(photos()))]:
        assert ours.dtype == torch.float32 and not torch.equal(ours, full)
        assert (ours * full).sum(-1).min() > 0.999
    assert half.encode_regions(photos(), 3).dtype == torch.float32


@pytest.mark.parametrize("checkpoint", ["clip_folder", "siglip_folder", "siglip2_folder"])
def test_bfloat16_turns_embeddings_by_little(checkpoint, request):
    folder = str(request.getfixturevalue(checkpoint))
    full, half = HuggingFace(folder), HuggingFace(folder, dtype="bfloat16")
    assert (half.encode_text(CAPTIONS[:4]) * full.encode_text(CAPTIONS[:4])).sum(-1).min() > 0.9999
    assert (half.encode_image(photos()) * full.encode_image(photos())).sum(-1).min() > (0.9999 if checkpoint == "clip_folder" else 0.9998)


@pytest.mark.parametrize("checkpoint", ["clip_folder", "siglip_folder"])
def test_photos_are_prepared_as_the_processor_does_to_the_bit(checkpoint, request):
    backbone = HuggingFace(str(request.getfixturevalue(checkpoint)))
    theirs = backbone.processor(images=[image.convert("RGB") for image in photos()], return_tensors="pt")["pixel_values"]
    assert torch.equal(backbone.frame.pixels(photos()), theirs)
    assert torch.equal(backbone.encode_image([backbone.fit_photo(image) for image in photos()]), backbone.encode_image(photos()))


def test_what_is_more_than_resizing_and_cutting_is_left_to_the_processor(siglip2_folder, clip_folder, tmp_path):
    patches = HuggingFace(str(siglip2_folder))
    assert patches.frame is None and patches.fit_photo(photos()[0]).size == photos()[0].size
    changed = shutil.copytree(clip_folder, tmp_path / "changed")
    settings = json.loads((changed / "preprocessor_config.json").read_text())
    (changed / "preprocessor_config.json").write_text(json.dumps({**settings, "rescale_factor": 1 / 127}))
    backbone = HuggingFace(str(changed))
    assert backbone.frame is None
    close(backbone.encode_image(photos(), normalize=False), plain_image(changed, photos()))


def test_regions_are_those_of_the_attention_that_transformers_returns(clip_folder, clip):
    """MacCap's selection and pooling, written once more with eager attention."""
    eager = AutoModel.from_pretrained(clip_folder, attn_implementation="eager", dtype=torch.float32)
    pixels = AutoImageProcessor.from_pretrained(clip_folder, backend="pil")(images=[image.convert("RGB") for image in photos()], return_tensors="pt")
    with torch.no_grad():
        seen = eager.vision_model(**pixels, output_attentions=True)
        attention = seen.attentions[-1].mean(1)
        patches = eager.visual_projection(eager.vision_model.post_layernorm(seen.last_hidden_state))[:, 1:]
    regions = clip.encode_regions(photos(), 4)
    close(regions[:, 0], clip.encode_image(photos()))
    for photo in range(5):
        chosen = attention[photo, 0, 1:].argsort(descending=True)[:4]
        for place, patch in enumerate(chosen):
            pooled = attention[photo, 1 + patch, 1:].softmax(0) @ patches[photo]
            close(regions[photo, 1 + place], pooled / pooled.norm())


def test_regions_are_refused_where_there_is_no_class_token_or_too_few_patches(siglip_folder, clip):
    with pytest.raises(SettingError, match="SiglipModel has no class token"):
        HuggingFace(str(siglip_folder)).encode_regions(photos(), 3)
    with pytest.raises(SettingError, match="16 patches"):
        clip.encode_regions(photos(), 17)


def test_embeddings_can_be_trained_on(clip):
    layer = torch.nn.Linear(16, 2)
    layer(clip.encode_text(["a dog"])).sum().backward()
    assert layer.weight.grad is not None


def test_a_model_that_is_no_dual_encoder_is_refused_by_name(tmp_path):
    BertModel(BertConfig(**SIZES, vocab_size=99)).save_pretrained(tmp_path / "bert")
    with pytest.raises(SettingError, match=r"BertModel.*Try openai/clip"):
        HuggingFace(str(tmp_path / "bert"))
    ClapConfig().save_pretrained(tmp_path / "clap")  # texts and sounds
    with pytest.raises(SettingError, match="clap"):
        HuggingFace(str(tmp_path / "clap"))
    (tmp_path / "config.json").write_text('{"model_type": "jina_clip", "auto_map": {"AutoConfig": "somewhere--configuration.Config"}}')
    with pytest.raises(SettingError, match="does not know the architecture"):
        HuggingFace(str(tmp_path))


def test_what_cannot_be_found_is_an_error_that_says_what_to_try(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="there is no folder"):
        HuggingFace(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds no config\.json"):
        HuggingFace(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"nobody/nothing at revision v1.*hf auth login.*Offline"):
        HuggingFace("nobody/nothing@v1")


def test_a_revision_is_written_once():
    assert source("owner/name@abc", None) == ("owner/name", "abc") == source("owner/name@abc", "abc") == source("owner/name", "abc")
    with pytest.raises(SettingError, match="two revisions"):
        source("owner/name@abc", "def")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["tokenizer.json", "tokenizer_config.json"], "no tokenizer"),
        (["preprocessor_config.json"], r"preprocessor_config\.json"),
        (["model.safetensors"], "holds no safetensors"),
    ],
)
def test_a_missing_file_is_an_error_that_names_it(clip_folder, tmp_path, files, says):
    folder = shutil.copytree(clip_folder, tmp_path / "copied")
    for file in files:
        (folder / file).unlink()
    with pytest.raises(DataError, match=says):
        HuggingFace(str(folder))


def test_a_pickle_is_never_opened(clip_folder, clip, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "copied")
    (folder / "model.safetensors").unlink()
    torch.save(clip.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"only pytorch_model\.bin, and a pickle is never opened"):
        HuggingFace(str(folder))


def test_damaged_and_partial_weights_are_errors(clip_folder, clip, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "copied")
    clip.model.save_pretrained(folder, state_dict={k: v for k, v in clip.model.state_dict().items() if not k.startswith("text_model")})
    with pytest.raises(DataError, match="text_model"):
        HuggingFace(str(folder))
    whole = (clip_folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        HuggingFace(str(folder))


@pytest.mark.parametrize(("setting", "value"), [("dtype", "float16"), ("batch", 0), ("revision", "main")])
def test_a_setting_out_of_range_is_refused(clip_folder, setting, value):
    with pytest.raises(Exception, match=setting):
        HuggingFace(str(clip_folder), **{setting: value})


def test_a_multilingual_model_reads_umlauts_and_trains_on_german_text_directly(tmp_path):
    (tmp_path / "model").mkdir()
    siglip2(tmp_path / "model", letters="äöüßéÄÖÜ")
    spec = {"name": "huggingface", "model": str(tmp_path / "model")}
    backbone = HuggingFace(spec["model"], languages=["en", "de"])
    rows = backbone._tokens(["Bär", "bar", "Straße"])
    assert rows[0] != rows[1] and len(rows[2]) == len("straße") + 1 and not any(2 in row for row in rows), "nothing is unknown"
    apart = backbone.encode_text(["ein Bär", "ein Bar", "EIN BÄR"])
    assert (apart[0] @ apart[1]).item() < 0.9999 and close(apart[0], apart[2]) is None
    text = tmp_path / "german.jsonl"
    captions = [{"image_id": str(n), "captions": [f"Ein Bär läuft {n}", f"Zwei Mädchen grüßen {n}"]} for n in range(30)]
    text.write_text("".join(json.dumps(row) + "\n" for row in captions))
    rest = {"decoder": DECODER, "training": {"steps": 2, "batch": 8, "held_out": 0.2, "choose_steps": 1, "choose_cosines": [0.5]}, "language": "de"}
    with pytest.raises(SettingError, match="languages = "):
        train(str(text), tmp_path / "refused", backbone=spec, **rest)
    made = train(str(text), tmp_path / "run", backbone={**spec, "languages": ["en", "de"]}, decoding={"rerank": "clip", "candidates": 2}, **rest)
    assert made.language == "de" and len(Captioner.load(tmp_path / "run").caption(photos()[:2])) == 2
