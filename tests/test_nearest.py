import pytest
import torch
import torch.nn.functional as F

from capdec import nearest as module
from capdec.nearest import nearest, recall, soft_nearest


def unit(rows, dim=8, seed=0):
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_the_nearest_rows_are_those_of_a_full_sort(chunk):
    queries, rows = unit(20), unit(50, seed=1)
    cosines, places = nearest(queries, rows, 6, chunk=chunk)
    for query, near, place in zip(queries, cosines, places, strict=True):
        every = F.cosine_similarity(query, rows)
        assert place.tolist() == every.argsort(descending=True)[:6].tolist()
        torch.testing.assert_close(near, every[place])


def test_more_neighbours_than_rows_are_all_rows_and_no_query_has_none():
    cosines, places = nearest(unit(3), unit(4, seed=1), 10)
    assert cosines.shape == (3, 4) and sorted(places[0].tolist()) == [0, 1, 2, 3]
    assert nearest(unit(0), unit(4), 2)[1].shape == (0, 2)


def test_recall_is_that_of_ranking_every_pair():
    images, texts, owners = unit(30), unit(90, seed=1), torch.arange(90) % 30
    texts = F.normalize(texts + images[owners], dim=-1)
    cosines = texts @ images.T
    found = recall(images, texts, owners)
    for k in (1, 5, 10):
        of_text = [owner in cosines[text].topk(k).indices for text, owner in enumerate(owners)]
        of_image = [bool((owners[cosines[:, image].topk(k).indices] == image).any()) for image in range(30)]
        assert found[f"text_to_image_R@{k}"] == pytest.approx(100 * sum(of_text) / 90, abs=0.01)
        assert found[f"image_to_text_R@{k}"] == pytest.approx(100 * sum(of_image) / 30, abs=0.01)
    assert found["text_to_image_R@1"] < found["text_to_image_R@10"]


def test_recall_of_embeddings_that_agree_is_full():
    images = unit(12)
    assert set(recall(images, images.repeat_interleave(2, 0), torch.arange(12).repeat_interleave(2)).values()) == {100.0}


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_rows_of_an_unseen_group_are_not_found(chunk):
    queries, rows, groups = unit(9), unit(50, seed=1), torch.arange(50) % 10
    unseen = torch.arange(9)
    places = nearest(queries, rows, 45, groups, unseen, chunk)[1]
    assert not (groups[places] == unseen.unsqueeze(1)).any(), "five of fifty are hidden, so forty-five are left"
    assert nearest(queries, rows, 50, groups, unseen, chunk)[0][:, 45:].isneginf().all(), "and those would come last"


@pytest.mark.parametrize("temperature", [0.003, 0.05, 2.0])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_the_soft_mean_is_that_of_one_whole_softmax(chunk, temperature):
    queries, rows, groups = unit(9), unit(50, seed=1), torch.arange(50) % 10
    cosines = queries @ rows.T
    torch.testing.assert_close(soft_nearest(queries, rows, temperature, chunk=chunk), (cosines / temperature).softmax(-1) @ rows)
    cosines[groups == torch.arange(9).unsqueeze(1)] = -torch.inf
    found = soft_nearest(queries, rows, temperature, groups, torch.arange(9), chunk)
    torch.testing.assert_close(found, (cosines / temperature).softmax(-1) @ rows)


def test_the_soft_mean_of_nothing_is_zero():
    assert soft_nearest(unit(2), unit(3), 0.1, torch.zeros(3).long(), torch.zeros(2).long()).eq(0).all()
    assert soft_nearest(unit(0), unit(3), 0.1).shape == (0, 8)


def test_rows_in_half_precision_are_summed_in_the_queries():
    queries, rows = unit(9), unit(5000, seed=1).bfloat16()
    exact = ((queries.double() @ rows.double().T) / 0.02).softmax(-1) @ rows.double()
    torch.testing.assert_close(soft_nearest(queries, rows, 0.02, chunk=100).double(), exact, atol=1e-5, rtol=1e-4)


def captions(count, dim=64):
    """Rows in bfloat16 with a common mean and a falling spectrum: a cosine of 0.5 with each other, as CLIP's texts have."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(count, dim, generator=generator) / (1 + torch.arange(dim) / 10)
    return F.normalize(F.normalize(rows, dim=-1) + F.normalize(torch.randn(dim, generator=generator), dim=0), dim=-1).bfloat16()


def mixtures(rows, count=9):
    """Of four rows each, and noise."""
    generator = torch.Generator().manual_seed(6)
    mixed = rows[torch.randint(len(rows), (count, 4), generator=generator)].float().mean(1)
    return F.normalize(F.normalize(mixed, dim=-1) + 0.3 * F.normalize(torch.randn(mixed.shape, generator=generator), dim=-1), dim=-1)


@pytest.fixture
def rounded(monkeypatch):
    """Any processor counts as fast in bfloat16; says how often that way was gone."""
    ways, attended = [], module._attended
    monkeypatch.setattr(module, "fast_bfloat16", lambda device: True)
    monkeypatch.setattr(module, "_attended", lambda *given: ways.append(1) or attended(*given))
    return ways


@pytest.mark.parametrize("temperature", [1e-4, 0.005, 0.01, 0.03, 1.0, 100.0])
@pytest.mark.parametrize("kind", ["mixtures", "copies", "centred"])
@pytest.mark.parametrize("count", [3, 8192, 20_001])
def test_in_bfloat16_the_soft_mean_keeps_its_direction(rounded, temperature, kind, count):
    rows = captions(count)
    if kind == "centred":  # they nearly cancel out where all weigh the same
        rows = F.normalize(rows.float() - rows.float().mean(0), dim=-1).bfloat16()
    queries = rows[:9].float() if kind == "copies" else mixtures(rows)
    exact = soft_nearest(queries.double(), rows, temperature)
    found = soft_nearest(queries, rows, temperature, dtype="bfloat16")
    assert F.cosine_similarity(found.double(), exact).min() >= 0.9999
    assert ((found.norm(dim=-1) / exact.norm(dim=-1) - 1).abs() < 0.01).all()
    assert bool(rounded) == (count >= module.FEWEST and module.COLDEST <= temperature <= module.HOTTEST), "the exact way is taken elsewhere"


def test_in_bfloat16_hidden_groups_are_hidden_and_a_query_that_sees_nothing_gets_zero(rounded):
    rows = captions(9000)
    queries, unseen = mixtures(rows, 4), torch.tensor([0, 1, 2, -1])
    groups = (torch.arange(9000) > 8500).long()  # whole chunks are hidden from query 0
    exact = soft_nearest(queries, rows, 0.01, groups, unseen)
    found = soft_nearest(queries, rows, 0.01, groups, unseen, dtype="bfloat16")
    assert rounded and F.cosine_similarity(found, exact).min() >= 0.9999 and F.cosine_similarity(found[0], found[1], 0) < 0.999
    assert soft_nearest(queries, rows, 0.01, groups * 0, unseen, dtype="bfloat16")[0].eq(0).all()


def test_rows_in_float32_are_never_rounded(rounded):
    rows = captions(9000).float()
    queries = mixtures(rows)
    assert torch.equal(soft_nearest(queries, rows, 0.01, dtype="bfloat16"), soft_nearest(queries, rows, 0.01)) and not rounded
