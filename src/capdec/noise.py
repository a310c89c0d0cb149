"""How much noise: std a coordinate, its square, or the expected cosine of a noised unit vector with the clean one, c = 1 / sqrt(1 + D std^2)."""

import math

from capdec.errors import SettingError


def std_of(cosine: float, dim: int) -> float:
    """The noise whose expected cosine with the clean embedding this is.

    >>> round(std_of(0.298, 640), 4)
    0.1266
    """
    return math.sqrt((1 / min(1.0, max(cosine, 1e-3)) ** 2 - 1) / dim)


def cosine_of(std: float, dim: int) -> float:
    """
    >>> round(cosine_of(0.016 ** 0.5, 640), 2)
    0.3
    """
    return 1 / math.sqrt(1 + dim * std**2)


def one_of(part: str, dim: int, std: float | None, variance: float | None, target_cosine: float | None) -> float:
    """The std that the one of the three which is given means. Raises SettingError where it is not exactly one, or where it is out of range.

    >>> one_of("a bridge", 640, None, 0.25, None)
    0.5
    """
    given = {"std": std, "variance": variance, "target_cosine": target_cosine}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        came = ", ".join(f"{name} = {value}" for name, value in named.items()) or "none"
        raise SettingError(f"{part} takes exactly one of std, variance and target_cosine; {came} came. Try target_cosine = 0.5.")
    ((name, value),) = named.items()
    if not 0 <= value < math.inf or (name == "target_cosine" and not 0 < value <= 1):
        raise SettingError(f"{name} = {value} is out of range: std and variance are 0 or more, target_cosine lies in (0, 1].")
    if name == "target_cosine":
        return std_of(value, dim)
    return math.sqrt(value) if name == "variance" else value
