"""The copy that infers computes what its network does."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from capdec.decoders.small_transformer import SmallTransformer
from capdec.errors import SettingError
from capdec.inference import Packed, _can_pack, _pack, for_inference
from capdec.precision import fast_bfloat16, precision
from capdec.protocols import Condition, Decoding

DIM = 16
CAPTIONS = ["a man rides a horse", "two dogs run over the grass"] * 4
packing = pytest.mark.skipif(not _can_pack(), reason="this processor has no bfloat16 products in oneDNN")


def small(folder):
    torch.manual_seed(0)
    decoder = SmallTransformer.tiny(folder, DIM)
    decoder.fit(CAPTIONS)
    return decoder


def prefix_lm(folder):
    pytest.importorskip("transformers")
    from capdec.decoders.prefix_lm import PrefixLM

    torch.manual_seed(0)
    decoder = PrefixLM.tiny(folder, DIM)
    decoder.fit([])
    return decoder


def given(count=8):
    return Condition.of(torch.randn(count, DIM, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("build", [small, prefix_lm])
@pytest.mark.parametrize("decoding", [Decoding(beams=3, captions=2, max_tokens=8), Decoding("greedy", max_tokens=8)], ids=["beam", "greedy"])
def test_captions_in_bfloat16_are_scored_as_the_network_scores_them(tmp_path, build, decoding):
    decoder = build(tmp_path).eval()
    if build is small:
        with torch.no_grad():
            decoder.words.weight[1] += decoder.norm.weight  # the end is likely
    decoder.dtype = torch.bfloat16
    found = decoder.generate(given(), decoding)
    for place in range(decoding.captions):
        captions = [image[place] for image in found]
        exact = decoder.log_prob(given(), captions)
        ended = torch.tensor([len(one.tokens) + 1 <= decoding.max_tokens for one in captions])
        scores = torch.tensor([one.score for one in captions])
        torch.testing.assert_close(scores[ended], (exact.total / exact.tokens)[ended], rtol=0, atol=0.03)
        assert all(len(one.tokens) == decoding.max_tokens for one, whole in zip(captions, ended.tolist(), strict=True) if not whole)


@pytest.mark.parametrize("build", [small, prefix_lm])
def test_a_copy_follows_its_weights_and_leaves_the_network_alone(tmp_path, build):
    decoder = build(tmp_path).train()
    names, decoder.dtype = [*decoder.state_dict()], torch.bfloat16
    with for_inference(decoder) as first, for_inference(decoder) as again:
        assert first is again and not first.training and decoder.training
    before = decoder.generate(given(), Decoding("greedy", max_tokens=6))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    with for_inference(decoder) as other:
        assert other is not first
    assert decoder.generate(given(), Decoding("greedy", max_tokens=6)) != before
    assert [*decoder.state_dict()] == names and {weight.dtype for weight in decoder.parameters()} == {torch.float32}
    assert decoder.training


def test_in_float32_there_is_no_copy_and_training_goes_on_where_it_was(tmp_path):
    decoder = small(tmp_path).train()
    with for_inference(decoder) as network:
        assert network is decoder and not network.training
    assert decoder.training


@pytest.mark.parametrize("build", [small, prefix_lm])
def test_what_is_done_before_rounding_changes_no_probability(tmp_path, build):
    decoder = build(tmp_path).eval()
    if build is prefix_lm:
        with torch.no_grad():
            decoder.lm.lm_head.weight.add_(3 * torch.randn(1, decoder.lm.lm_head.in_features))
    changed = copy.deepcopy(decoder)
    changed.before_rounding()
    for one, other in zip(decoder.log_prob(given(2), CAPTIONS[:2]), changed.log_prob(given(2), CAPTIONS[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("build", [small, prefix_lm])
def test_a_decoder_that_generated_in_bfloat16_can_be_copied_and_sent(tmp_path, build):
    decoder = build(tmp_path).eval()
    decoder.dtype = torch.bfloat16
    found = decoder.generate(given(), Decoding("greedy", max_tokens=6))
    for other in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert not other.room.free and other.generate(given(), Decoding("greedy", max_tokens=6)) == found


def test_the_optimizer_s_step_is_a_change_of_weights(tmp_path):
    decoder = small(tmp_path).eval()
    decoder.dtype = torch.bfloat16
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.1, fused=True)
    with for_inference(decoder) as before:
        pass
    total, _ = decoder.log_prob(given(2), CAPTIONS[:2])
    (-total.sum()).backward()
    optimizer.step()
    with for_inference(decoder) as after:
        assert after is not before


def test_threads_share_one_copy(tmp_path):
    decoder = small(tmp_path).eval()
    decoder.dtype = torch.bfloat16
    decoding = Decoding(beams=3, max_tokens=8)
    alone = [decoder.generate(given(count), decoding) for count in (1, 2, 5, 8)]
    decoder.dtype = torch.float32
    decoder.generate(given(1), decoding)  # which lets go of the copy
    decoder.dtype = torch.bfloat16
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda count: decoder.generate(given(count), decoding), (1, 2, 5, 8))) == alone


@packing
@torch.no_grad()
def test_packed_layers_are_linear_layers_and_the_activations_behind_them():
    transformers = pytest.importorskip("transformers.pytorch_utils")
    for rows in (1, 5, 1000):
        x = torch.randn(2, rows, 24).bfloat16()
        for activation in (nn.GELU(), nn.GELU("tanh"), nn.ReLU(), nn.Tanh(), nn.Sigmoid()):
            plain = nn.Sequential(nn.Linear(24, 40), activation, nn.Linear(40, 24, bias=False)).bfloat16()
            fast = copy.deepcopy(plain)
            _pack(fast)
            assert isinstance(fast[0], Packed) and isinstance(fast[2], Packed)
            assert isinstance(fast[1], nn.Sigmoid if isinstance(activation, nn.Sigmoid) else nn.Identity)
            torch.testing.assert_close(fast(x), plain(x), rtol=0.02, atol=0.02)
        other = nn.Sequential(transformers.Conv1D(12, 24)).bfloat16()
        wanted = other(x)
        _pack(other)
        assert isinstance(other[0], Packed)
        torch.testing.assert_close(other(x), wanted, rtol=0.02, atol=0.02)


@packing
def test_layers_that_are_reached_into_stay_as_they_are():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True).eval().bfloat16()
    module, x = nn.ModuleList([layer]), torch.randn(2, 3, 16).bfloat16()
    wanted = layer(x)
    _pack(module)
    torch.testing.assert_close(module[0](x), wanted)


def test_auto_is_what_the_processor_is_made_for(monkeypatch):
    for able, chosen in (({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({"avx2": True}, "float32"), ({}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert precision("auto") == chosen and fast_bfloat16("cpu") == (chosen == "bfloat16")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision("auto") == "float32", "an older torch does not say"
    assert (precision("bfloat16"), precision("float32"), precision("auto", "meta")) == ("bfloat16", "float32", "float32")
    with pytest.raises(SettingError, match="auto, float32, bfloat16"):
        precision("float16")


def test_a_captioner_computes_in_what_is_asked_and_goes_back(tmp_path):
    from capdec import Captioner

    captioner = Captioner.load(dtype="bfloat16")
    print_before = captioner.fingerprint
    assert captioner.decoder.dtype == torch.bfloat16 and captioner.backbone.dtype == "bfloat16"
    rows = F.normalize(torch.randn(4, captioner.backbone.dim, generator=torch.Generator().manual_seed(0)), dim=-1)
    half = captioner.caption_embeddings(rows)
    captioner.compute_in("float32")
    assert captioner.decoder.dtype == torch.float32 and captioner.fingerprint == print_before
    plain = captioner.caption_embeddings(rows)
    scores = [one.score for one in plain]
    assert [one.score for one in half] == pytest.approx(scores, abs=0.1) and [one.score for one in half] != scores
    assert captioner.backbone.dtype == "float32"
    with pytest.raises(SettingError, match="float64"):
        captioner.compute_in("float64")
