"""OpenAI's architectures in plain torch: the ViT against Transformers on equal weights, the ResNet against its published size and by hand."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from capdec.backbones.huggingface import HuggingFace
from capdec.backbones.openai import FILES, AttentionPool, Network, OpenAI
from capdec.checkpoint import read_tensors, write_tensors
from capdec.errors import DataError, SettingError

CAPTIONS = ["a man rides a horse", "Two dogs!", ""]
TEXT = {"context_length": 77, "vocab_size": 49408}


def photos(sizes=((40, 33), (33, 50), (32, 32))):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]


@pytest.fixture
def twins(tmp_path):
    """A tiny CLIP in the hub's format, and the same weights under OpenAI's names."""
    (tmp_path / "hub").mkdir()
    theirs = HuggingFace.tiny(tmp_path / "hub")
    state = theirs.model.state_dict()
    weights = {
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": state["logit_scale"],
    }
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm", "ln_final": "text_model.final_layer_norm"}
    for ours, tower in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        for layer in range(2):
            old, new = f"{tower}.encoder.layers.{layer}", f"{ours}.resblocks.{layer}"
            norms |= {f"{new}.ln_1": f"{old}.layer_norm1", f"{new}.ln_2": f"{old}.layer_norm2"}
            norms |= {f"{new}.attn.out_proj": f"{old}.self_attn.out_proj", f"{new}.mlp.c_fc": f"{old}.mlp.fc1", f"{new}.mlp.c_proj": f"{old}.mlp.fc2"}
            for kind in ("weight", "bias"):
                weights[f"{new}.attn.in_proj_{kind}"] = torch.cat([state[f"{old}.self_attn.{name}_proj.{kind}"] for name in "qkv"])
    weights |= {f"{new}.{kind}": state[f"{old}.{kind}"] for new, old in norms.items() for kind in ("weight", "bias")}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8, "mlp_ratio": 2.0}
    text = {"context_length": 77, "vocab_size": state["text_model.embeddings.token_embedding.weight"].shape[0], "width": 32, "heads": 4, "layers": 2}
    text["mlp_ratio"] = 2.0
    folder = tmp_path / "open_clip"
    folder.mkdir()
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (folder / FILES[0]).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"resize_mode": "shortest"}}))
    write_tensors(folder / FILES[1], weights)
    theirs.tokenizer.backend_tokenizer.save(str(folder / FILES[2]))
    return theirs, folder


def test_the_vit_is_transformers_on_equal_weights(twins):
    theirs, folder = twins
    ours = OpenAI(str(folder))
    for normalize in (True, False):
        torch.testing.assert_close(ours.encode_text(CAPTIONS, normalize), theirs.encode_text(CAPTIONS, normalize), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.encode_image(photos(), normalize), theirs.encode_image(photos(), normalize), atol=1e-5, rtol=1e-4)


def test_bfloat16_keeps_a_cosine_of_0_9999(twins, tmp_path):
    OpenAI.tiny(tmp_path / "resnet")
    for folder in (twins[1], tmp_path / "resnet"):
        full, half = OpenAI(str(folder)), OpenAI(str(folder), dtype="bfloat16")
        assert (half.encode_text(CAPTIONS) * full.encode_text(CAPTIONS)).sum(-1).min() > 0.9999
        assert (half.encode_image(photos()) * full.encode_image(photos())).sum(-1).min() > 0.999
        assert torch.equal(full.encode_image([full.fit_photo(photo) for photo in photos()]), full.encode_image(photos()))


def test_longer_captions_are_cut_and_counted_as_transformers_does(twins):
    theirs, folder = twins
    ours = OpenAI(str(folder))
    long = ["dog " * 60, "a cat"]
    with pytest.warns(UserWarning, match="1 of 2 captions are longer"):
        found = ours.encode_text(long)
    with pytest.warns(UserWarning):
        torch.testing.assert_close(found, theirs.encode_text(long), atol=1e-5, rtol=1e-4)
    assert ours.truncated == 1


@pytest.mark.parametrize(
    ("parameters", "dim", "vision", "width", "heads"),
    [
        (102_007_137, 1024, {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64}, 512, 8),  # RN50
        (178_300_601, 640, {"image_size": 288, "layers": [4, 6, 10, 6], "width": 80}, 640, 10),  # RN50x4: CapDec's
        (151_277_313, 512, {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}, 512, 8),  # ViT-B/32
        (427_616_513, 768, {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14}, 768, 12),  # ViT-L/14
    ],
)
def test_the_published_models_have_their_published_size(parameters, dim, vision, width, heads):
    with torch.device("meta"):
        network = Network({"embed_dim": dim, "vision_cfg": vision, "text_cfg": {**TEXT, "width": width, "heads": heads, "layers": 12}})
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_mean_of_all_places_asks_them():
    pool = AttentionPool(2, 8, 1, 4)
    x = torch.randn(1, 8, 2, 2)
    places = x[0].flatten(1).T
    places = torch.cat([places.mean(0, keepdim=True), places]) + pool.positional_embedding
    weights = (pool.q_proj(places[0]) @ pool.k_proj(places).T / 8**0.5).softmax(-1)
    torch.testing.assert_close(pool(x)[0], pool.c_proj(weights @ pool.v_proj(places)))


def test_a_resnet_strides_by_pooling_so_that_no_pixel_is_skipped(tmp_path):
    network = OpenAI.tiny(tmp_path).model.visual
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    network.requires_grad_(True)
    stem = F.relu(network.bn1(network.conv1(image)))
    assert stem.shape[-1] == 16 and network.layer1(F.avg_pool2d(F.relu(network.bn3(network.conv3(network.conv2(stem)))), 2)).shape[-1] == 8
    assert [network.layer2[0].conv1.stride, network.layer2[0].conv2.stride] == [(1, 1), (1, 1)]
    network(image + torch.randn_like(image)).sum().backward()
    assert (image.grad.abs().sum(1) > 0).float().mean() > 0.9, "where a ReLU is shut nothing flows, and with strides of two three quarters would lack"


def test_the_same_files_have_the_same_fingerprint_and_other_weights_another(tmp_path):
    first, second = OpenAI.tiny(tmp_path / "a"), OpenAI.tiny(tmp_path / "b")
    assert first.fingerprint == second.fingerprint != OpenAI(str(tmp_path / "a"), dtype="bfloat16").fingerprint
    tensors, _ = read_tensors(tmp_path / "b" / FILES[1])
    write_tensors(tmp_path / "b" / FILES[1], {**tensors, "visual.conv1.weight": tensors["visual.conv1.weight"] + 1})
    assert OpenAI(str(tmp_path / "b")).fingerprint != first.fingerprint


def test_what_cannot_be_read_says_which_file_and_why(tmp_path):
    with pytest.raises(DataError, match="lacks open_clip_config"):
        OpenAI(str(tmp_path))
    with pytest.raises(DataError, match="neither a folder"):
        OpenAI("./nowhere")
    OpenAI.tiny(tmp_path)
    config = json.loads((tmp_path / FILES[0]).read_text())
    for change, error, said in (
        ({"text_cfg": {"hf_model_name": "roberta"}}, SettingError, "hf_model_name"),
        ({"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}, DataError, "attnpool.positional_embedding"),
        ({"embed_dim": None}, DataError, "not open_clip's configuration"),
    ):
        (tmp_path / FILES[0]).write_text(json.dumps({"model_cfg": {**config["model_cfg"], **change}}))
        with pytest.raises(error, match=said):
            OpenAI(str(tmp_path))
    (tmp_path / FILES[0]).write_text(json.dumps({**config, "preprocess_cfg": {"resize_mode": "longest"}}))
    with pytest.raises(SettingError, match="longest"):
        OpenAI(str(tmp_path))
    (tmp_path / FILES[0]).write_text(json.dumps(config))
    (tmp_path / FILES[2]).write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        OpenAI(str(tmp_path))
    tensors, _ = read_tensors(tmp_path / FILES[1])
    write_tensors(tmp_path / FILES[1], {**tensors, "visual.attnpool.q_norm.weight": torch.ones(2)})
    with pytest.raises(SettingError, match="q_norm"):
        OpenAI(str(tmp_path))
