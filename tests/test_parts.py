import sys
import textwrap

import pytest

from capdec import parts
from capdec.bridges.gaussian_noise import GaussianNoise
from capdec.errors import SettingError, UnknownPart

OWN = textwrap.dedent("""
    from __future__ import annotations
    from dataclasses import dataclass

    @dataclass
    class Shift:
        dim: int
        by: float
        twice: bool = False
""")


@pytest.fixture
def own_part(tmp_path, monkeypatch):
    (tmp_path / "own_shift.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own_shift.py"
    sys.modules.pop("own_shift", None)


def test_a_part_is_named_by_its_file():
    assert parts.find("bridges", "gaussian_noise") is GaussianNoise
    assert "gaussian_noise" in parts.names("bridges") and "__init__" not in parts.names("bridges")


def test_a_part_is_built_from_its_name_or_from_a_table_with_what_the_job_adds():
    built = parts.build("bridges", {"name": "gaussian_noise", "std": 0.1}, dim=4, device="cpu")  # it takes no device, so it is given none
    assert (built.std, built.dim) == (0.1, 4)
    table = {"name": "small_transformer", "layers": 1}
    assert len(parts.build("decoders", table, dim=4).layers) == 1
    assert table == {"name": "small_transformer", "layers": 1}, "the recipe is left as it was"
    assert parts.build("decoders", "small_transformer", dim=4).dim == 4


def test_a_part_of_ones_own_is_named_by_its_module_or_by_its_file(own_part):
    by_file = parts.build("bridges", {"name": f"{own_part}:Shift", "by": 2.0}, dim=4)
    by_module = parts.build("bridges", {"name": "own_shift:Shift", "by": 2.0}, dim=4)
    assert (by_module.dim, by_module.by, by_module.twice) == (by_file.dim, by_file.by, by_file.twice) == (4, 2.0, False)


def test_settings_are_the_constructors_arguments():
    assert parts.settings(GaussianNoise)["distribution"] == "gaussian"


@pytest.mark.parametrize("spec", ["no_module:Shift", "own_shift:Other", "nowhere.py:Shift", ":Shift", "own_shift:"])
def test_an_own_part_that_cannot_be_loaded_is_an_error_that_shows_how_to_write_it(spec, own_part):
    with pytest.raises(UnknownPart, match=r"package\.module:Class or file\.py:Class"):
        parts.find("bridges", spec)


def test_a_misspelt_name_is_an_error_that_shows_the_near_one_and_all_choices():
    with pytest.raises(UnknownPart, match="did you mean 'gaussian_noise'") as error:
        parts.build("bridges", "gausian_noise", dim=4)
    assert all(name in str(error.value) for name in parts.names("bridges"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "gaussian_noise", "sdt": 0.1}, "'sdt'. Its settings: std"),
        ({"name": "gaussian_noise", "std": 0.1, "dim": 5}, "no setting 'dim'"),
        ({"std": 0.1}, "needs a name"),
        ({"name": "own_shift:Shift"}, "Shift needs 'by'. Its settings: by, twice"),
    ],
)
def test_settings_that_do_not_fit_are_an_error_that_shows_the_choices(spec, message, own_part):
    with pytest.raises(SettingError, match=message):
        parts.build("bridges", spec, dim=4)
