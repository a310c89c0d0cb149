import inspect

import pytest
import torch

from capdec.errors import SettingError
from capdec.mapper import AttentionMapper, MLPMapper, TransformerMapper, build_mapper, padding_first


def test_a_transformer_mapper_does_not_see_masked_rows():
    torch.manual_seed(0)
    mapper = TransformerMapper(dim=8, width=16, prefix=3, clip_length=2, layers=2, heads=2).eval()
    rows, mask = torch.randn(4, 3, 8), torch.tensor([[True, True, False], [True, False, False], [True, True, True], [True, False, True]])
    prefix, real = mapper(rows, mask)
    assert prefix.shape == (4, 3, 16) and real.all()
    other = torch.where(mask.unsqueeze(-1), rows, torch.randn(4, 3, 8))
    torch.testing.assert_close(mapper(other, mask)[0], prefix)
    torch.testing.assert_close(mapper(rows[1:2, :1], mask[1:2, :1])[0][0], prefix[1], msg="a masked row is as if it were not there")
    torch.testing.assert_close(mapper(rows[3:, [0, 2]], mask[3:, [0, 2]])[0][0], prefix[3])
    assert not torch.allclose(mapper(rows, torch.ones_like(mask))[0][0], prefix[0])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_transformer_mapper_is_torch_s_own_encoder_over_rows_and_constants(rows):
    torch.manual_seed(0)
    mapper = TransformerMapper(dim=8, width=16, prefix=3, clip_length=2, layers=2, heads=2)
    given, mask = torch.randn(4, rows, 8), torch.arange(rows) < torch.tensor([[1], [rows], [1], [rows]])
    x = torch.cat([mapper.expand(given).view(4, 2 * rows, 16), mapper.constants.expand(4, -1, -1)], 1)
    padding = torch.cat([~mask.repeat_interleave(2, 1), torch.zeros(4, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(mapper(given, mask)[0], mapper.layers(x, src_key_padding_mask=padding)[:, -3:])


def test_an_attention_mapper_reads_any_number_of_rows_in_any_order_and_none_that_is_masked():
    torch.manual_seed(0)
    mapper = AttentionMapper(dim=8, width=16, prefix=3, layers=1, heads=2).eval()
    rows, mask = torch.randn(4, 3, 8), torch.tensor([[True, True, False], [True, False, False], [True, True, True], [True, False, True]])
    prefix, real = mapper(rows, mask)
    assert prefix.shape == (4, 3, 16) and real.all()
    torch.testing.assert_close(mapper(torch.where(mask.unsqueeze(-1), rows, torch.randn(4, 3, 8)), mask)[0], prefix)
    torch.testing.assert_close(mapper(rows[1:2, :1], mask[1:2, :1])[0][0], prefix[1])
    torch.testing.assert_close(mapper(rows[2:3, [2, 0, 1]], mask[2:3])[0][0], prefix[2], msg="regions have no order")


def test_a_constant_mapper_says_the_same_of_anything():
    mapper = build_mapper("constant", 8, 16, 3, 0, 0, 1)
    prefix, real = mapper(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    assert prefix.shape == (2, 3, 16) and real.all() and torch.equal(prefix[0], prefix[1])


@pytest.mark.parametrize("hidden", [True, False])
def test_an_mlp_mapper_puts_the_global_row_last_where_it_is_never_padding(hidden):
    mapper = MLPMapper(dim=8, width=6, prefix=2, hidden=hidden)
    rows, mask = torch.randn(2, 3, 8), torch.tensor([[True, True, False], [True, False, False]])
    prefix, real = mapper(rows, mask)
    assert prefix.shape == (2, 6, 6)
    for row in range(3):
        torch.testing.assert_close(prefix[:, 2 * (2 - row) : 2 * (3 - row)], mapper.layers(rows[:, row]).view(2, 2, 6))
    assert real.tolist() == [[False, False, True, True, True, True], [False, False, False, False, True, True]]


def test_padding_goes_first_and_the_order_of_what_is_real_stays():
    vectors, mask = torch.arange(1.0, 9.0).view(2, 4, 1), torch.tensor([[True, False, True, False], [True, True, True, True]])
    moved, real = padding_first(vectors, mask)
    assert moved.flatten(1)[0, 2:].tolist() == [1, 3] and real[0].tolist() == [False, False, True, True]
    assert torch.equal(moved[1], vectors[1]) and real[1].all()


def test_the_default_of_capdec_has_the_published_number_of_parameters():
    with torch.device("meta"):
        mapper = build_mapper("transformer", dim=640, width=768, prefix=40, clip_length=40, layers=8, heads=8)
    assert sum(parameter.numel() for parameter in mapper.parameters()) == pytest.approx(57.6e6, rel=2e-3)


def test_kinds_of_mappers_are_built_by_name():
    sizes = {"dim": 8, "width": 12, "prefix": 3, "clip_length": 2, "layers": 1, "heads": 4}
    for kind in ("transformer", "mlp", "linear", "attention", "constant"):
        assert build_mapper(kind, **sizes)(torch.randn(2, 1, 8), torch.ones(2, 1, dtype=torch.bool))[0].shape == (2, 3, 12)
    assert sum(p.numel() for p in build_mapper("linear", **sizes).parameters()) == (8 + 1) * 3 * 12
    with pytest.raises(SettingError, match="transformer, mlp, linear, attention, constant"):
        inspect.unwrap(build_mapper)("conv", **sizes)  # past the tests' own type checks
    with pytest.raises(SettingError, match="5 heads"):
        build_mapper("transformer", **{**sizes, "heads": 5})
