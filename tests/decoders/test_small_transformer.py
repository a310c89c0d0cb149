import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from capdec.checkpoint import module_tensors, write_tensors
from capdec.decoders.small_transformer import END, PAD, SmallTransformer
from capdec.errors import DataError, MismatchError, SettingError
from capdec.protocols import Condition, Decoding
from capdec.tokens import train_bpe

CAPTIONS = ["a man rides a horse", "two dogs run over the grass and play", "a man"]


def build(**settings):
    torch.manual_seed(0)
    sizes = {"layers": 2, "width": 32, "heads": 2, "prefix": 2, "vocabulary": 300, "max_tokens": 24, "dropout": 0.0}
    decoder = SmallTransformer(16, **{**sizes, **settings})
    decoder.fit(CAPTIONS * 4)
    with torch.no_grad():
        decoder.words.weight.mul_(10)  # logits far apart, so that no tie decides
        decoder.positions.mul_(10)
    return decoder.eval()


def condition(count=3, rows=1):
    return Condition.of(3 * torch.randn(count, rows, 16, generator=torch.Generator().manual_seed(2)))


def plain_logits(decoder, given, ids):
    """Of each next token, the caption read at once without padding, cache or mask."""
    prefix, _ = decoder._prefix(given)
    x = torch.cat([prefix, decoder.words(ids[None])], 1)
    x = x + decoder.positions[: x.shape[1]]
    for layer in decoder.layers:
        x = layer(x, None)
    return F.linear(decoder.norm(x), decoder.words.weight)[0, prefix.shape[1] - 1 :, END:]  # padding, token 0, is no word


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_log_prob_is_minus_the_cross_entropy_of_torch(smoothing):
    decoder = build()
    total, tokens = decoder.log_prob(condition(), CAPTIONS, label_smoothing=smoothing)
    for index, caption in enumerate(CAPTIONS):
        ids = torch.tensor([*decoder.tokenizer.encode(caption).ids, END])
        logits = plain_logits(decoder, condition().select(torch.tensor([index])), ids[:-1])
        loss = F.cross_entropy(logits, ids - END, reduction="sum", label_smoothing=smoothing)
        assert tokens[index] == len(ids)
        assert total[index].item() == pytest.approx(-loss.item(), rel=1e-4)


def test_a_layer_is_torch_s_own_pre_norm_layer():
    layer = build().layers[0]
    other = torch.nn.TransformerEncoderLayer(32, 2, 128, 0.0, F.gelu, batch_first=True, norm_first=True).eval()
    other.load_state_dict(
        {
            "self_attn.in_proj_weight": layer.qkv.weight,
            "self_attn.in_proj_bias": layer.qkv.bias,
            **{f"self_attn.out_proj.{name}": getattr(layer.out, name) for name in ("weight", "bias")},
            **{f"linear1.{name}": getattr(layer.mlp[0], name) for name in ("weight", "bias")},
            **{f"linear2.{name}": getattr(layer.mlp[2], name) for name in ("weight", "bias")},
            **{f"norm{n}.{name}": getattr(getattr(layer, f"norm{n}"), name) for n in (1, 2) for name in ("weight", "bias")},
        }
    )
    x = torch.randn(2, 5, 32)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(5)
    torch.testing.assert_close(layer(x, None), other(x, causal, is_causal=True), rtol=1e-4, atol=1e-5)


def gradients(decoder, given, captions):
    decoder.zero_grad()
    decoder.log_prob(given, captions).total.sum().backward()
    return {name: parameter.grad.clone() for name, parameter in decoder.named_parameters() if parameter.grad is not None}


def test_padding_takes_no_part_in_the_gradient():
    decoder = build()
    together = gradients(decoder, condition(), CAPTIONS)
    alone = [gradients(decoder, condition().select(torch.tensor([index])), CAPTIONS[index : index + 1]) for index in range(3)]
    assert set(together) == {name for name, _ in decoder.named_parameters()}
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(one[name] for one in alone), rtol=1e-3, atol=1e-3, msg=name)
    assert not together["words.weight"][PAD].any()


@pytest.mark.parametrize("mapper", ["mlp", "linear", "transformer"])
def test_masked_rows_and_the_batch_s_longer_prompts_change_nothing(mapper):
    decoder = build(mapper=mapper)
    mask = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    full = replace(Condition(condition(3, rows=3).embeddings, mask), prompts=("dogs", "a man and a horse", ""))
    batch = decoder.log_prob(full, CAPTIONS)
    decoding = Decoding(beams=3, max_tokens=8)
    found = decoder.generate(full, decoding)
    for index, count in enumerate(mask.sum(1).tolist()):
        alone = replace(Condition.of(full.embeddings[index : index + 1, :count]), prompts=full.prompts[index : index + 1])
        torch.testing.assert_close(decoder.log_prob(alone, CAPTIONS[index : index + 1]).total[0], batch.total[index], rtol=1e-4, atol=1e-3)
        ((caption,),) = decoder.generate(alone, decoding)
        assert caption.tokens == found[index][0].tokens and caption.score == pytest.approx(found[index][0].score, abs=1e-4)


def train(decoder, given, captions, steps):
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        total, tokens = decoder.log_prob(given, captions)
        (-total.sum() / tokens.sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("rows", [1, 3])
def test_captions_are_learned_with_their_ends_and_scored_by_their_log_probability(rows):
    decoder = build()
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])[:, :rows]
    given = Condition(condition(3, rows).embeddings, mask)
    train(decoder, given, CAPTIONS, 100)
    assert [image[0].text for image in decoder.generate(given, Decoding("greedy", max_tokens=24))] == CAPTIONS
    compared = 0
    for decoding in (Decoding(captions=4, max_tokens=20, length_penalty=0.6), Decoding("nucleus", captions=4, max_tokens=20, top_p=1.0)):
        for index, image in enumerate(decoder.generate(given, decoding)):
            for one in image:
                if len(one.tokens) < 20 and decoder.tokenizer.encode(one.text).ids == [*one.tokens]:
                    total, tokens = decoder.log_prob(given.select(torch.tensor([index])), [one.text])
                    assert one.score == pytest.approx(total.item() / tokens.item() ** decoding.length_penalty, abs=1e-3)
                    compared += 1
    assert compared >= 12


def test_padding_is_never_said():
    decoder = build()
    with torch.no_grad():
        decoder.words.weight[PAD] = 50 * decoder.norm(torch.randn(32))
    for strategy in ("beam", "nucleus"):
        for image in decoder.generate(condition(20), Decoding(strategy, captions=3, max_tokens=24, top_p=1.0)):
            assert all(PAD not in one.tokens for one in image)


def test_long_captions_are_cut_and_still_end():
    decoder = build(max_tokens=4)
    assert decoder.log_prob(condition(2), CAPTIONS[:2]).tokens.tolist() == [4, 4]
    assert max(len(image[0].tokens) for image in decoder.generate(condition(9), Decoding(max_tokens=40))) == 4


def test_no_image_has_no_caption_and_an_empty_caption_is_its_end():
    decoder = build()
    assert decoder.generate(Condition.of(torch.zeros(0, 16)), Decoding(max_tokens=5)) == []
    assert decoder.log_prob(condition(2), ["", "a man"]).tokens[0] == 1


def test_what_cannot_be_is_an_error_that_says_what_would_do(tmp_path):
    with pytest.raises(SettingError, match="5 heads"):
        SmallTransformer(16, width=32, heads=5)
    with pytest.raises(SettingError, match=r"fit\(captions\)"):
        SmallTransformer(16).log_prob(condition(1), ["a man"])
    with pytest.raises(DataError, match=r"decoder_tokenizer\.json"):
        SmallTransformer(16).load(tmp_path)
    with pytest.raises(SettingError, match="a prefix of 600"):
        build().generate(condition(1, rows=300), Decoding())


def test_a_caption_that_spells_a_special_token_is_text(tmp_path):
    decoder = SmallTransformer.tiny(tmp_path)
    decoder.fit(["a man <end> rides", "a dog"] * 4)
    ids = decoder.tokenizer.encode("a man <end> <pad>").ids
    assert not {0, 1} & set(ids) and decoder.tokenizer.decode(ids).strip() == "a man <end> <pad>"


def test_a_generated_caption_is_told_by_its_own_tokens():
    """However its text would be cut: a period that the corpus sets apart is written next to its word."""
    decoder = build()
    for captions in decoder.generate(condition(), Decoding("nucleus", captions=4, max_tokens=20, seed=3)):
        for one in captions:
            if len(one.tokens) < 20:
                single = condition().select(torch.tensor([0]))
                total, tokens = decoder.log_prob(single, [one])
                ids = torch.tensor([*one.tokens, END])
                wanted = plain_logits(decoder, single, ids[:-1]).log_softmax(-1).gather(1, (ids - END).unsqueeze(1)).sum()
                assert tokens.tolist() == [len(ids)] and total.item() == pytest.approx(wanted.item(), rel=1e-4)


def saved(folder, **settings):
    """As a captioner's folder has it."""
    decoder = build(**settings)
    folder.mkdir()
    decoder.save(folder)
    (folder / "config.json").write_text(json.dumps({"decoder": {"name": "small_transformer", "heads": 2, "prefix": 2}}))
    write_tensors(folder / "weights.safetensors", {f"decoder.{name}": tensor for name, tensor in module_tensors(decoder).items()})
    return decoder


def test_it_starts_from_another_ones_language_model_which_may_stay_as_it_is(tmp_path):
    words = saved(tmp_path / "words", mapper="constant")
    sizes = {"layers": 2, "width": 32, "heads": 2, "prefix": 2, "max_tokens": 24, "dropout": 0.5}
    decoder = SmallTransformer(16, **sizes, start=str(tmp_path / "words"), frozen=True)
    decoder.fit(["another corpus"])
    assert torch.equal(decoder.words.weight, words.words.weight) and torch.equal(decoder.layers[1].out.weight, words.layers[1].out.weight)
    assert {name.partition(".")[0] for name, weight in decoder.named_parameters() if weight.requires_grad} == {"mapper"}
    decoder.train()
    torch.testing.assert_close(decoder.log_prob(condition(), CAPTIONS).total, decoder.log_prob(condition(), CAPTIONS).total)  # no dropout
    tuned = SmallTransformer(16, **sizes, start=str(tmp_path / "words"))
    tuned.fit([])
    assert all(weight.requires_grad for weight in tuned.parameters())
    other = SmallTransformer(16, **{**sizes, "width": 48}, start=str(tmp_path / "words"))
    with pytest.raises(MismatchError, match="words"):
        other.fit([])
    for changed in ({"prefix": 3}, {"heads": 4}):
        with pytest.raises(MismatchError, match="has 2 heads and learned behind a prefix of 2"):
            SmallTransformer(16, **{**sizes, **changed}, start=str(tmp_path / "words"), frozen=True).fit([])
    with pytest.raises(DataError, match="tokenizer"):
        SmallTransformer(16, **sizes, start=str(tmp_path / "nothing")).fit([])
    with pytest.raises(SettingError, match="needs start"):
        SmallTransformer(16, **sizes, frozen=True)


def test_umlauts_are_learned_and_said_whole():
    captions = ["Ein Mädchen läuft über die größte Straße.", "Zwei Bären fraßen Öl in Übersee, Äpfel auch."]
    bpe = train_bpe(captions * 20, 500, ["<pad>", "<end>"])
    assert [bpe.decode(bpe.encode(text).ids).strip() for text in captions] == captions
    assert len(bpe.encode("Mädchen").ids) == 1, "two bytes of an umlaut are merged as letters are"
