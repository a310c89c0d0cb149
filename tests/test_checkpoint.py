import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from capdec.checkpoint import load_module, load_state, module_tensors, read_tensors, replacing, save_state, write_json, write_tensors
from capdec.errors import DataError, MismatchError


class Tied(nn.Module):
    """A language model in little: its embedding is also its output layer."""

    def __init__(self, width=6):
        super().__init__()
        self.words, self.out = nn.Embedding(11, width), nn.Linear(width, 11, bias=False)
        self.middle = nn.Linear(width, width)
        self.out.weight = self.words.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.middle(self.words(tokens))))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(RuntimeError, match="killed"), replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"], "no .part is left behind"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"ä": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"ä": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": 1}


def steps(model, optimizer, first, last):
    for step in range(first, last):
        tokens = torch.randint(11, (8, 2), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens[:, 0]), tokens[:, 1]).backward()
        optimizer.step()


def fresh(seed):
    torch.manual_seed(seed)
    model = Tied()
    return model, torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)


def test_a_run_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(tmp_path):
    undisturbed, optimizer = fresh(0)
    steps(undisturbed, optimizer, 0, 9)

    first, optimizer = fresh(0)
    steps(first, optimizer, 0, 4)
    save_state(tmp_path / "state.safetensors", first, optimizer, 4, {"seed": 0, "sizes": (1, 2)})
    second, optimizer = fresh(1)
    assert load_state(tmp_path / "state.safetensors", second, optimizer, {"sizes": (1, 2), "seed": 0}) == 4
    steps(second, optimizer, 4, 9)
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_state_saved_before_the_first_step_is_continued(tmp_path):
    model, optimizer = fresh(0)
    save_state(tmp_path / "state.safetensors", model, optimizer, 0, {})
    other, optimizer = fresh(1)
    assert load_state(tmp_path / "state.safetensors", other, optimizer, {}) == 0
    assert torch.equal(other.words.weight, model.words.weight) and not optimizer.state


def test_tied_tensors_are_saved_once_and_come_back_tied(tmp_path):
    model, _ = fresh(0)
    tensors = module_tensors(model)
    assert set(tensors) == {"words.weight", "middle.weight", "middle.bias"}
    write_tensors(tmp_path / "m.safetensors", tensors, {"about": "a test"})
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert set(file.keys()) == set(tensors)
    read, metadata = read_tensors(tmp_path / "m.safetensors")
    assert metadata == {"about": "a test"}
    other, _ = fresh(1)
    load_module(other, read, "m")
    assert torch.equal(other.out.weight, model.words.weight) and other.out.weight is other.words.weight


def test_weights_in_half_precision_are_loaded_into_full(tmp_path):
    model, _ = fresh(0)
    other, _ = fresh(1)
    load_module(other, {name: tensor.half() for name, tensor in module_tensors(model).items()}, "m")
    assert other.words.weight.dtype == torch.float32
    torch.testing.assert_close(other.words.weight, model.words.weight, rtol=1e-3, atol=1e-3)


def test_weights_that_do_not_fit_are_an_error_naming_what_differs_and_change_nothing():
    model, _ = fresh(0)
    before = model.middle.weight.clone()
    tensors = {"words.weight": torch.zeros(3, 6), "middle.weight": torch.zeros(6, 6), "new": torch.zeros(1)}
    with pytest.raises(MismatchError) as error:
        load_module(model, tensors, "the file")
    for part in ("the file", "middle.bias is missing", "new is unknown", "words.weight is [3, 6] for [11, 6]"):
        assert part in str(error.value)
    assert torch.equal(model.middle.weight, before)


def test_a_state_of_other_settings_is_an_error_naming_them(tmp_path):
    model, optimizer = fresh(0)
    save_state(tmp_path / "state.safetensors", model, optimizer, 1, {"seed": 0, "batch": 8, "same": [1]})
    with pytest.raises(MismatchError, match=r"\(batch, extra, seed\)"):
        load_state(tmp_path / "state.safetensors", model, optimizer, {"seed": 1, "same": (1,), "extra": 2})


def test_a_file_that_holds_no_state_is_an_error(tmp_path):
    model, optimizer = fresh(0)
    write_tensors(tmp_path / "weights.safetensors", module_tensors(model))
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        load_state(tmp_path / "weights.safetensors", model, optimizer, {})


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten", "removed"])
def test_a_damaged_or_missing_file_is_an_error_that_names_it(damage, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"a": torch.randn(100)})
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:-10], "emptied": b"", "overwritten": b"version https://git-lfs.github.com/spec/v1\n"}[damage])
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        read_tensors(path)
