"""Plots, by matplotlib, as SVG or PNG by the file's ending. Colours are told apart by everyone, and a plot is complete without them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capdec.checkpoint import replacing
from capdec.errors import MissingExtra, SettingError

COLOURS = ("#9a3b12", "#1f6f8b", "#5b8c2a", "#7a4b94", "#b8860b")
MARKS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Series:
    """Points in order; `low` and `high` bound each, where that is known; `mark` is one of them to point out, by its place."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    mark: int | None = None
    mark_name: str = ""


def require(picture: str | Path = "a.svg") -> Any:
    """matplotlib.figure.Figure, without pyplot and its global state. Raises MissingExtra, and SettingError for a file that it cannot draw."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "drawing") from error
    known = Figure().canvas.get_supported_filetypes()
    if Path(picture).suffix.lstrip(".").lower() not in known:
        raise SettingError(f"{picture} is no picture that can be drawn. It ends in one of: {', '.join(sorted(known))}.")
    return Figure


def curves(
    path: str | Path,
    series: Sequence[Series],
    title: str,
    x: str,
    y: str,
    lines: dict[str, float] | None = None,
    ticks: dict[float, str] | None = None,
    log: bool = False,
) -> None:
    """Curves over x with their intervals; `lines` are level lines for comparison; `ticks` are what stands at which x."""
    figure = require()(figsize=(7.2, 4.4), layout="constrained")
    axes = _axes(figure.add_subplot(), title, x, y)
    _plot(axes, series)
    for name, level in (lines or {}).items():
        axes.axhline(level, color="#888888", linewidth=1, linestyle="--")
        axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8.5)
    if log:
        axes.set_xscale("log")
    if ticks:
        axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
        axes.minorticks_off()
    save(figure, path)


def side_by_side(path: str | Path, panels: Sequence[tuple[str, str, str, Sequence[Series]]]) -> None:
    """Curves beside each other, each panel with a title and what its x and y are."""
    figure = require()(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    for axes, (title, x, y, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _plot(_axes(axes, title, x, y), series)
    save(figure, path)


def _plot(axes: Any, series: Sequence[Series]) -> None:
    for place, one in enumerate(series):
        colour, marker = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        axes.plot(one.x, one.y, color=colour, marker=marker, markersize=5, linewidth=1.6, label=one.name)
        if one.low is not None and one.high is not None:
            axes.vlines(one.x, one.low, one.high, color=colour, linewidth=1.2, alpha=0.6)
        if one.mark is not None:
            axes.annotate(
                one.mark_name, (one.x[one.mark], one.y[one.mark]), xytext=(0, 26), textcoords="offset points", ha="center", fontsize=9,
                arrowprops={"arrowstyle": "->", "color": colour}, color=colour,
            )  # fmt: skip
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)


def histograms_and_spectrum(path: str | Path, cosines: dict[str, np.ndarray], spectra: dict[str, np.ndarray], lines: dict[str, float]) -> None:
    """Beside each other: where the cosines lie, with estimates of the noise as lines; and how much of the variance the first directions hold."""
    figure = require()(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _axes(left, "How near embeddings are", "cosine", "density")
    bins = np.linspace(min(values.min() for values in cosines.values()), 1, 121)
    for place, (name, values) in enumerate(cosines.items()):
        left.hist(values, bins=bins, density=True, histtype="stepfilled", alpha=0.35, color=COLOURS[place], label=name)
        left.hist(values, bins=bins, density=True, histtype="step", color=COLOURS[place])
    top = left.get_ylim()[1]
    left.set_ylim(0, top * (1 + 0.07 * len(lines)))
    for place, (name, cosine) in enumerate(sorted(lines.items(), key=lambda one: one[1])):  # one below the other, for they may lie close
        height = top * (1 + 0.07 * (len(lines) - place - 0.5))
        left.vlines(cosine, 0, height, color="#444444", linewidth=1, linestyle=":")
        words = {"fontsize": 7.5, "va": "center", "bbox": {"color": "white", "pad": 0.5}}
        x, side = (-3, "right") if cosine > 0.75 else (3, "left")
        left.annotate(f"noise {name}", (cosine, height), xytext=(x, 0), textcoords="offset points", ha=side, **words)
    left.legend(frameon=False, fontsize=8.5, loc="upper left")
    _axes(right, "How many directions hold the variance", "principal directions", "share of the variance")
    for place, (name, values) in enumerate(spectra.items()):
        right.plot(
            np.arange(1, len(values) + 1), np.cumsum(values) / values.sum(), color=COLOURS[place], label=name, linestyle=("-", "--")[place % 2]
        )
    right.set_xscale("log")
    right.legend(frameon=False, fontsize=8.5)
    save(figure, path)


def _axes(axes: Any, title: str, x: str, y: str) -> Any:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x, fontsize=9.5)
    axes.set_ylabel(y, fontsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)
    axes.tick_params(labelsize=8.5)
    return axes


def save(figure: Any, path: str | Path) -> None:
    """Whole or not at all, and the same bytes each time."""
    with replacing(path) as temporary:
        kind = Path(path).suffix.lstrip(".").lower() or "svg"
        dated = {"Date": None} if kind == "svg" else {}
        figure.savefig(temporary, format=kind, dpi=150, metadata=dated)
