"""A search's steps over both decoders, beside the same texts read from their beginning each time."""

import copy

import pytest
import torch

from capdec.decoders.small_transformer import SmallTransformer
from capdec.past import STEP, Past, Room, Steps
from capdec.protocols import Condition, Decoding

DIM = 16


def small(folder):
    decoder = SmallTransformer.tiny(folder, DIM)
    decoder.fit(["a man rides a horse", "two dogs run over the grass"] * 4)
    return decoder.eval()


def prefix_lm(folder):
    pytest.importorskip("transformers")
    from capdec.decoders.prefix_lm import PrefixLM

    decoder = PrefixLM.tiny(folder, DIM)
    decoder.fit([])
    return decoder.eval()


@pytest.fixture(scope="module", params=[small, prefix_lm])
def decoder(request, tmp_path_factory):
    torch.manual_seed(0)
    return request.param(tmp_path_factory.mktemp("decoder"))


def condition(images, prompts=False):
    given = Condition.of(torch.randn(images, 1, DIM, generator=torch.Generator().manual_seed(1)))
    if not prompts:
        return given
    words = ("a", "two dogs run", "a man rides", "", "a horse", "the grass")
    return Condition(given.embeddings, given.mask, tuple(words[image % len(words)] for image in range(images)))


def read_again(decoder, given, image, tokens):
    """The logits behind the image's prefix and these tokens, read at once: no mask, no padding, no past."""
    prefix, mask = decoder._prefix(given.select(torch.tensor([image])))
    words = decoder.words if isinstance(decoder, SmallTransformer) else decoder.lm.get_input_embeddings()
    x = torch.cat([prefix[:, mask[0]], words(torch.tensor([tokens], dtype=torch.long))], 1)
    if isinstance(decoder, SmallTransformer):
        x = x + decoder.positions[: x.shape[1]]
        for layer in decoder.layers:
            x = layer(x, None)
        return decoder._logits(decoder.norm(x)[:, -1])[0]
    return decoder.lm(inputs_embeds=x, use_cache=False).logits[0, -1]


@torch.inference_mode()
@pytest.mark.parametrize("prompts", [False, True])
def test_steps_through_any_tree_are_the_texts_read_again(decoder, prompts):
    """Beams that multiply, merge, cross over and go with their images, told in any order."""
    draw = torch.Generator().manual_seed(3)
    given, vocabulary = condition(6, prompts), 200
    steps = Steps(decoder, given, torch.float32)
    logits = steps.begin()
    texts = [(image, ()) for image in range(6)]
    for images, width in [([0, 1, 2, 3, 4, 5], 3), ([0, 1, 5, 3, 4], 3), ([4, 1, 0], 2), ([2, 1, 0], 4), ([0, 1, 2], 4), ([0, 2], 1), ([0, 1], 3)]:
        before = len(texts) // len({image for image, _ in texts})
        parents = torch.tensor([[image * before + int(torch.randint(before, (), generator=draw)) for _ in range(width)] for image in images])
        tokens = torch.randint(2, vocabulary, parents.shape, generator=draw)
        logits = steps.advance(parents, tokens)
        texts = [
            (texts[parent][0], (*texts[parent][1], token))
            for parent, token in zip(parents.flatten().tolist(), tokens.flatten().tolist(), strict=True)
        ]
        wanted = torch.stack([read_again(decoder, given, image, list(said)) for image, said in texts])
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_places_that_no_beam_continues_are_used_again(decoder):
    """Five beams that all continue the first need a place a step for it, and five for themselves."""
    steps = Steps(decoder, condition(2), torch.float32)
    steps.begin()
    prefix = steps.past.places
    steps.advance(torch.tensor([[0] * 5, [1] * 5]), torch.full((2, 5), 7))
    for step in range(1, 20):
        steps.advance(torch.tensor([[0] * 5, [5] * 5]), torch.full((2, 5), 7))
        assert steps.past.places < prefix + step + 5 + STEP
        assert steps.seen.sum(2).tolist() == [[prefix + step + 1] * 5] * 2


def test_images_that_stay_are_moved_into_the_holes_of_those_that_go():
    past, keys = Past(), torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 3, 4)
    past.begin(5, 3)
    past.append(0, keys, -keys)
    where = past.layers[0][0].data_ptr()
    for images, moved in (([0, 4, 2], False), ([2, 0], True)):
        held = past.layers[0][0][:, 0, 0, 0].tolist()
        past.keep(torch.tensor(images))
        assert past.layers[0][0][: len(images), 0, 0, 0].tolist() == [held[image] for image in images]
        assert (past.layers[0][1][: len(images)] == -past.layers[0][0][: len(images)]).all()
        assert (past.layers[0][0].data_ptr() != where) == moved, "only an order that no filling of holes gives is copied whole"


def test_a_search_in_memory_that_another_left_finds_the_same(decoder):
    decoding = Decoding(beams=3, max_tokens=6)
    decoder.room = Room()
    alone = decoder.generate(condition(2, prompts=True), decoding)
    decoder.generate(condition(6), Decoding(beams=5, max_tokens=20))
    left = {one.data_ptr() for one in decoder.room.free}
    assert left and decoder.generate(condition(2, prompts=True), decoding) == alone
    assert {one.data_ptr() for one in decoder.room.free} == left, "it was used again"
    assert not copy.deepcopy(decoder).room.free


def test_memory_that_may_hold_no_numbers_is_not_left(tmp_path):
    decoder = small(tmp_path)
    broken = Condition.of(torch.full((2, 1, DIM), torch.nan))
    decoder.generate(broken, Decoding(beams=3, max_tokens=6))
    assert not decoder.room.free
