"""Against `transformers` itself: its generate, its loss, on tiny random language models in the hub's own folder format."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")
from transformers import (
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from capdec.decoders.prefix_lm import PrefixLM
from capdec.errors import DataError, SettingError
from capdec.protocols import Condition, Decoding
from capdec.tokens import pad, train_bpe

CAPTIONS = ["a man rides a horse", "two dogs run over the grass and play", "a man"]
PLACES = {"max_position_embeddings": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
FAMILIES = {
    "gpt2": lambda **rest: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **rest),
    "opt": lambda **rest: OPTConfig(**PLACES, ffn_dim=64, word_embed_proj_dim=32, **rest),
    "llama": lambda **rest: LlamaConfig(**PLACES, intermediate_size=64, num_key_value_heads=1, **rest),
    "bloom": lambda **rest: BloomConfig(hidden_size=32, n_layer=2, n_head=2, **rest),  # knows positions by a bias, so that it steps row by row
    "gpt_neo": lambda **rest: GPTNeoConfig(  # whose attention has a mask of its own
        hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global"], 2]], max_position_embeddings=64, **rest
    ),
    "qwen2": lambda **rest: Qwen2Config(**PLACES, intermediate_size=64, num_key_value_heads=1, **rest),
}


def build(folder, family="gpt2", end_bias=0.0, **settings):
    """A decoder whose tokenizer is made as GPT-2's is (token 0 is "!", the end is the last) and whose logits lie far apart: no tie decides."""
    bpe = train_bpe(CAPTIONS * 4, 300, [])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")
    assert tokenizer.convert_ids_to_tokens(0) == "!" and tokenizer.eos_token_id == len(tokenizer) - 1
    special = {
        "tie_word_embeddings": False,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": 1,
    }
    FAMILIES[family](**special).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    decoder = PrefixLM(16, str(folder), pretrained=False, **{"prefix": 3, "clip_length": 2, "mapper_layers": 1, "mapper_heads": 2, **settings})
    decoder.fit(CAPTIONS)
    with torch.no_grad():
        for weight in {decoder.lm.get_input_embeddings().weight, decoder.lm.lm_head.weight}:
            weight.mul_(20)
        bias = torch.zeros(len(tokenizer))
        bias[-1] = end_bias
        decoder.lm.lm_head.bias = torch.nn.Parameter(bias)
    return decoder.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def decoder(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp(request.param), request.param, end_bias=6.0 if request.param == "opt" else 4.0)


def condition(count=5, rows=1):
    return Condition.of(3 * torch.randn(count, rows, 16, generator=torch.Generator().manual_seed(2)))


@torch.no_grad()
def reference(decoder, given, decoding):
    """What transformers.generate finds: for each image its sequences up to the end, and their scores."""
    prefix, mask = decoder._prefix(given)
    end = decoder.tokenizer.eos_token_id
    wide = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty, "num_return_sequences": decoding.captions}
    output = decoder.lm.generate(
        inputs_embeds=prefix,
        attention_mask=mask.long(),
        max_new_tokens=decoding.max_tokens,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        min_new_tokens=decoding.min_tokens - 1,  # which does not count the end
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
        return_dict_in_generate=True,
        output_scores=True,
        **({**wide, "early_stopping": False} if decoding.strategy == "beam" else {}),
    )
    rows = [tuple(itertools.takewhile(lambda token: token != end, row)) for row in output.sequences.tolist()]
    scores = output.get("sequences_scores")
    return [
        (rows[start : start + decoding.captions], None if scores is None else scores[start : start + decoding.captions].tolist())
        for start in range(0, len(rows), decoding.captions)
    ]


@pytest.mark.parametrize("no_repeat", [0, 2])
def test_greedy_search_is_that_of_transformers(decoder, no_repeat):
    decoding = Decoding("greedy", max_tokens=12, no_repeat_ngram_size=no_repeat)
    found = decoder.generate(condition(), decoding)
    assert [[one.tokens for one in image] for image in found] == [rows for rows, _ in reference(decoder, condition(), decoding)]
    single = decoder.generate(condition(), replace(decoding, strategy="beam", beams=1))
    assert [image[0].tokens for image in single] == [image[0].tokens for image in found], "one beam is greedy search"


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(beams=5, captions=3, max_tokens=12),
        Decoding(beams=2, captions=1, max_tokens=12, length_penalty=0.0),
        Decoding(beams=3, captions=3, max_tokens=10, length_penalty=0.6),
        Decoding(beams=4, captions=2, max_tokens=12, length_penalty=2.0),
        Decoding(beams=5, captions=5, max_tokens=4, length_penalty=1.0),
        Decoding(beams=5, captions=5, max_tokens=12, length_penalty=2.0, no_repeat_ngram_size=2),
        Decoding(beams=3, captions=2, max_tokens=12, length_penalty=0.6, no_repeat_ngram_size=3),
        Decoding(beams=4, captions=4, max_tokens=1),
        Decoding(beams=3, captions=1, max_tokens=12, length_penalty=-1.0),
        Decoding(beams=4, captions=3, max_tokens=12, min_tokens=9, no_repeat_ngram_size=2),
    ],
    ids=lambda d: f"beams{d.beams}-captions{d.captions}-max{d.max_tokens}-min{d.min_tokens}-penalty{d.length_penalty}-ngram{d.no_repeat_ngram_size}",
)
def test_beam_search_is_that_of_transformers(decoder, decoding):
    found = decoder.generate(condition(), decoding)
    for image, (rows, scores) in zip(found, reference(decoder, condition(), decoding), strict=True):
        assert [one.tokens for one in image] == rows
        assert [one.score for one in image] == pytest.approx(scores, abs=1e-4)


def test_a_family_steps_as_its_attention_allows(decoder):
    assert decoder._takes_masks() == (decoder.lm.config.model_type not in ("bloom", "gpt_neo"))


def test_beam_search_behind_prompts_of_several_lengths_is_that_of_transformers(decoder):
    decoding = Decoding(beams=4, captions=3, max_tokens=10, no_repeat_ngram_size=2)
    given = replace(condition(3), prompts=("dogs", "a man and a horse", ""))
    for image, (rows, scores) in zip(decoder.generate(given, decoding), reference(decoder, given, decoding), strict=True):
        assert [one.tokens for one in image] == rows
        assert [one.score for one in image] == pytest.approx(scores, abs=1e-4)


def test_the_captions_compared_end_early_and_late(decoder):
    found = decoder.generate(condition(20), Decoding(beams=4, captions=4, max_tokens=12))
    lengths = {len(one.tokens) for image in found for one in image}
    assert len(lengths) > 3 and max(lengths) == 12


def test_log_prob_is_minus_the_cross_entropy_of_transformers(decoder):
    total, tokens = decoder.log_prob(condition(3), CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        prefix, _ = decoder._prefix(condition(3).select(torch.tensor([index])))
        ids = torch.tensor([[*decoder.tokenizer(caption, add_special_tokens=False)["input_ids"], decoder.tokenizer.eos_token_id]])
        embeds = torch.cat([prefix, decoder.lm.get_input_embeddings()(ids)], 1)
        labels = torch.cat([torch.full(prefix.shape[:2], -100), ids], 1)
        loss = decoder.lm(inputs_embeds=embeds, labels=labels).loss
        assert tokens[index] == ids.shape[1]
        assert total[index].item() == pytest.approx(-loss.item() * ids.shape[1], rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing_is_that_of_torch(tmp_path, smoothing):
    decoder = build(tmp_path)
    total, _ = decoder.log_prob(condition(3), CAPTIONS, label_smoothing=smoothing)
    for index, caption in enumerate(CAPTIONS):
        prefix, _ = decoder._prefix(condition(3).select(torch.tensor([index])))
        ids = torch.tensor([*decoder._tokens([caption])[0], decoder.tokenizer.eos_token_id])
        logits = decoder.lm(inputs_embeds=torch.cat([prefix, decoder.lm.get_input_embeddings()(ids[None, :-1])], 1)).logits[0, -len(ids) :]
        loss = F.cross_entropy(logits, ids, reduction="sum", label_smoothing=smoothing)
        assert total[index].item() == pytest.approx(-loss.item(), rel=1e-4)


OTHERS = {
    "gemma2": lambda **rest: Gemma2Config(**PLACES, intermediate_size=64, num_key_value_heads=1, head_dim=16, final_logit_softcapping=3.0, **rest),
    "cohere": lambda **rest: CohereConfig(**PLACES, intermediate_size=64, num_key_value_heads=1, logit_scale=0.3, **rest),
}


@pytest.mark.parametrize("prompts", [None, ("dogs", "a man and a horse", "")])
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_log_prob_is_what_all_logits_of_the_model_under_a_full_mask_say(tmp_path, monkeypatch, family, prompts):
    """Whatever it does behind its output layer."""
    monkeypatch.setitem(FAMILIES, family, {**FAMILIES, **OTHERS}[family])
    decoder = build(tmp_path, family)
    given = replace(condition(3), prompts=prompts)
    prefix, mask = decoder._prefix(given)
    rows = [[*ids, decoder._end()] for ids in decoder._tokens(CAPTIONS)]
    targets, real = pad(rows), pad([[1] * len(row) for row in rows]).bool()
    x = torch.cat([prefix, decoder.lm.get_input_embeddings()(targets[:, :-1])], 1)
    logits = decoder.lm(inputs_embeds=x, **decoder._places(torch.cat([mask, real[:, :-1]], 1))).logits[:, -targets.shape[1] :]
    wanted = (logits.log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2) * real).sum(1)
    torch.testing.assert_close(decoder.log_prob(given, CAPTIONS).total, wanted, rtol=1e-4, atol=1e-4)


def gradients(decoder, given, captions):
    decoder.zero_grad()
    decoder.log_prob(given, captions).total.sum().backward()
    return {name: parameter.grad.clone() for name, parameter in decoder.named_parameters() if parameter.grad is not None}


def test_padding_takes_no_part_in_the_gradient(decoder):
    together = gradients(decoder, condition(3), CAPTIONS)
    alone = [gradients(decoder, condition(3).select(torch.tensor([index])), CAPTIONS[index : index + 1]) for index in range(3)]
    assert "mapper.constants" in together
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(one[name] for one in alone), rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_rows_and_the_batch_s_longer_prompts_change_nothing(tmp_path, family, mapper):
    decoder = build(tmp_path, family, mapper=mapper, end_bias=2.0)
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
    optimizer = torch.optim.AdamW([p for p in decoder.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        total, tokens = decoder.log_prob(given, captions)
        (-total.sum() / tokens.sum()).backward()
        optimizer.step()
    return (total / tokens).detach()


def test_captions_are_learned_with_their_ends_and_scored_by_their_log_probability(tmp_path):
    decoder = build(tmp_path)
    train(decoder, condition(3), CAPTIONS, 100)
    found = decoder.generate(condition(3), Decoding("greedy"))
    assert [image[0].text for image in found] == CAPTIONS
    compared = 0
    for penalty in (0.0, 0.6, 1.0):
        for index, image in enumerate(decoder.generate(condition(3), Decoding(beams=4, captions=4, max_tokens=20, length_penalty=penalty))):
            for one in image:
                if len(one.tokens) < 20 and decoder._tokens([decoder.tokenizer.decode(one.tokens)]) == [[*one.tokens]]:
                    given = condition(3).select(torch.tensor([index]))
                    total, tokens = decoder.log_prob(given, [decoder.tokenizer.decode(one.tokens)])
                    assert one.score == pytest.approx(total.item() / tokens.item() ** penalty, abs=1e-3)
                    compared += 1
    assert compared >= 9


def test_token_zero_can_be_learned(tmp_path):
    decoder = build(tmp_path)
    assert decoder._tokens(["!"])[0][-1] == 0
    assert train(decoder, condition(2), ["! ! !", "!"], 120).exp().min() > 0.5
    assert [image[0].text for image in decoder.generate(condition(2), Decoding("greedy"))] == ["! ! !", "!"]


def test_a_frozen_language_model_is_not_trained_and_has_no_dropout(tmp_path):
    decoder = build(tmp_path, language_model="frozen").train()
    assert decoder.mapper.training and not decoder.lm.training
    before = {name: tensor.clone() for name, tensor in decoder.lm.state_dict().items()}
    decoder.lm.requires_grad_(False)  # build's new bias
    train(decoder, condition(3), CAPTIONS, 2)
    assert all(parameter.grad is None for parameter in decoder.lm.parameters())
    assert all(parameter.grad is not None for parameter in decoder.mapper.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.lm.state_dict().items())
    decoder.generate(condition(1), Decoding("greedy", max_tokens=2))
    assert decoder.mapper.training and not decoder.lm.training, "generating puts the mode back"


def test_long_captions_are_cut_and_still_end(tmp_path):
    decoder = build(tmp_path, max_tokens=4)
    captions = ["a man rides a horse over the grass", "a man rides a horse and two dogs run"]
    assert decoder.log_prob(condition(2), captions).tokens.tolist() == [4, 4]


def test_captions_are_cut_to_what_the_model_has_places_for(tmp_path):
    decoder = build(tmp_path, prefix=60, end_bias=-100.0)
    assert decoder.max_tokens == 4 and decoder.log_prob(condition(1), ["a man rides a horse over the grass"]).tokens.tolist() == [4]
    assert all(len(caption.tokens) == 4 for (caption,) in decoder.generate(condition(2), Decoding("greedy", no_repeat_ngram_size=0)))
    with pytest.raises(SettingError, match="reads 64 places, and a prefix of 63 leaves none for a caption"):
        build(tmp_path, prefix=63)


def test_no_image_has_no_caption_and_an_empty_caption_is_its_end(tmp_path):
    decoder = build(tmp_path)
    assert decoder.generate(Condition.of(torch.zeros(0, 16)), Decoding()) == []
    assert decoder.log_prob(condition(2), ["", "a man"]).tokens[0] == 1


def test_what_cannot_be_is_an_error_that_says_what_would_do(tmp_path):
    with pytest.raises(SettingError, match=r"fit\(captions\)"):
        PrefixLM(16).log_prob(condition(1), ["a man"])
    with pytest.raises(DataError, match="nowhere"):
        PrefixLM(16, str(tmp_path / "nowhere")).fit([])
    with pytest.raises(DataError, match=r"no config\.json"):
        PrefixLM(16).load(tmp_path)
    bpe = train_bpe(CAPTIONS, 300, [])
    FAMILIES["gpt2"](vocab_size=bpe.get_vocab_size()).save_pretrained(tmp_path / "endless")
    PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(tmp_path / "endless")
    with pytest.raises(SettingError, match="no end-of-text token"):
        PrefixLM(16, str(tmp_path / "endless"), pretrained=False).fit([])
