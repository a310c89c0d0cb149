"""Commands that make captioners: `train`, `prepare` (its text), `refine`, `sweep`, `import-checkpoint`, and `pretrain` (a backbone)."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from capdec.cli.options import (
    backbone_of,
    choices,
    dataset_of,
    dataset_options,
    decoding_of,
    decoding_options,
    device_option,
    own_parts_option,
    part,
    resumable,
)  # fmt: skip
from capdec.errors import one_line


@click.command(epilog=choices())
@click.argument("captions", required=False)
@click.option(
    "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="The captioner's folder. An unfinished run continues."
)
@click.option("--style", "styles", multiple=True, metavar="NAME=FILE", help="Captions in another style, which can then be asked for by its name.")
@click.option("--sources", help="What the captions are told from, joined by image_id (a style's plain captions); or: siblings.")
@click.option(
    "--start", metavar="NAME|DIR|HUB_ID", help="A captioner to begin with: its backbone and decoder, and its settings where none are given."
)
@click.option("--learn", type=click.Choice(["all", "mapper", "lora"]), help="Short for --set training.learn=..., what changes of the decoder.")
@click.option("--recipe", "recipe_file", type=click.Path(dir_okay=False), help="A TOML file that describes the run.")
@click.option("--backbone", help="A backbone's name, a hub id (@revision) or a folder.  [default: mini]")
@click.option("--decoder", help="A decoder's name, or a causal language model's hub id or folder.  [default: small_transformer]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. training.steps=500 or bridges.0.std=0.1.")
@click.option("--steps", type=int, help="Short for --set training.steps=...")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Short for --set training.dtype=...")
@click.option(
    "--embeddings",
    type=click.Path(file_okay=False),
    help="Where the corpus' embeddings are kept, to be shared by runs.  [default: OUTPUT/embeddings]",
)
@own_parts_option
@device_option
def train(
    captions: str | None,
    output: Path,
    styles: tuple[str, ...],
    sources: str | None,
    start: str | None,
    learn: str | None,
    recipe_file: str | None,
    backbone: str | None,
    decoder: str | None,
    assignments: tuple[str, ...],
    steps: int | None,
    dtype: str | None,
    embeddings: str | None,
    own_parts: bool,
    device: str,
) -> None:
    """Train a captioner from CAPTIONS: a text file (a caption a line), JSON lines, CSV, TSV, Parquet, or COCO's or Karpathy's JSON.

    No image is needed. Killed and started again, it goes on where it was. Several processes: torchrun --nproc-per-node 2 -m capdec train ...
    """
    from capdec import recipe
    from capdec.errors import SettingError

    table = recipe.read(recipe_file) if recipe_file else {}
    given = {"captions": _in_styles(captions or table.get("captions"), styles), "sources": sources, "start": start}
    table |= {key: value for key, value in given.items() if value is not None}
    table |= {key: part(f"{key}s", value) for key, value in (("backbone", backbone), ("decoder", decoder)) if value is not None}
    short = {"training.steps": steps, "training.dtype": dtype, "training.learn": learn}
    assignments = (*(f"{key}={value}" for key, value in short.items() if value is not None), *assignments)
    if table.get("start"):
        table = {"bridges": _config_of(table["start"])["bridges"], **table}
    table = recipe.override(_with_a_bridge(table, [one.partition("=")[0] for one in assignments], "auto"), assignments)
    unknown = [key for key in table if key not in recipe.KEYS]
    if unknown:
        raise SettingError(f"a recipe for training has no {', '.join(map(repr, unknown))}. It has: {', '.join(recipe.KEYS)}.")
    if "captions" not in table:
        raise SettingError("no captions were named. Give a file: capdec train captions.txt --output DIR, or name one in the recipe.")

    from capdec.train import train as run

    table.pop("evaluation", None)  # what `capdec evaluate --recipe` reads
    with resumable(f"{output} holds what was done"):
        captioner = run(**table, output=output, device=device, embeddings=embeddings, own_parts=own_parts)
    import torch.distributed as processes

    if processes.is_available() and processes.is_initialized():
        processes.destroy_process_group()  # in order: one that merely ends may abort another that still listens to it
    if int(os.environ.get("RANK", "0")) == 0:
        click.echo(f"Trained: {output}   bridges: {captioner.spec['bridges']}")
        click.echo(f"Try it:  capdec caption PHOTO... --captioner {output}")


def _in_styles(captions: Any, styles: Sequence[str]) -> Any:
    """What `train` takes for captions, and others in styles that have names. Raises SettingError."""
    from capdec.errors import SettingError

    named = [one.partition("=") for one in styles]
    if wrong := [one for one, (name, _, file) in zip(styles, named, strict=True) if not (name and file)]:
        raise SettingError(f"--style takes NAME=FILE, for example romantic=romantic.jsonl; this came: {wrong[0]!r}.")
    tables = [{"path": file, "as": name} for name, _, file in named]
    plain = captions if isinstance(captions, list) else [captions] if captions else []
    return [*plain, *tables] if tables else captions


def _config_of(captioner: str) -> dict[str, Any]:
    """What stands in its folder, for settings to change."""
    import json

    from capdec.captioner import locate

    config: dict[str, Any] = json.loads((locate(captioner) / "config.json").read_text(encoding="utf-8"))
    return config


def _with_a_bridge(table: dict[str, Any], keys: Sequence[str], cosine: float | str) -> dict[str, Any]:
    """The recipe with CapDec's bridge, where it names none and `keys` are to change it: at this target cosine, if they do not set the noise."""
    if "bridges" in table or not any(key.startswith("bridges.0.") for key in keys):
        return table
    noisy = any(key in ("bridges.0.std", "bridges.0.variance", "bridges.0.target_cosine", "bridges.0.name") for key in keys)
    return {**table, "bridges": [{"name": "gaussian_noise", **({} if noisy else {"target_cosine": cosine})}]}


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON lines for `capdec train`.")
@click.option("--sentences/--lines", default=None, help="INPUT is running text, to be cut into sentences; or captions, which a .txt has a line each.")
@click.option("--words", nargs=2, type=int, metavar="LEAST MOST", help="Words of a text.  [default: 4 20 of a sentence; captions of any length]")
@click.option(
    "--visual",
    type=click.Choice(["nouns", "likeness", "none"]),
    help="It names a visible thing (English); or is like the captions of --mix.  [default: nouns for sentences, none for captions]",
)
@click.option("--near", type=float, help="Of likeness: as near to some plain caption as so many percent of these are to another.  [default: 95]")
@click.option("--backbone", default="mini", show_default=True, help="Of likeness: a backbone's name, a hub id (@revision) or a folder.")
@click.option("--mix", help="Plain captions, to be mixed with.")
@click.option("--share", type=float, help="Share of INPUT's texts when mixed; there are as many as it leaves room for.  [default: 0.5]")
@click.option("--recase", is_flag=True, help="Give words in small letters the capitals that INPUT most often gives them.")
@click.option("--gender", type=click.Choice(["neutral", "balanced", "swap"]), help="Rewrite gendered words, of --mix too (English).")
@click.option("--language", metavar="CODE", default="en", show_default=True, help="Of the texts: what knows English alone refuses another.")
@click.option("--seed", default=0, show_default=True, help="Of what is left out for --share, and of the coin of --gender balanced.")
@device_option
def prepare(inputs: tuple[str, ...], output: Path, words: tuple[int, int] | None, backbone: str, device: str, **given: Any) -> None:
    """Turn a book, news or any text into captions to train on, in its manner: sentences that can be seen, mixed with plain captions.

    INPUT is a text file or whatever `capdec train` reads. What was dropped is counted by its reason, and shown in OUTPUT's .report.json.
    """
    from rich.console import Console
    from rich.table import Table

    from capdec.prepare import prepare as run
    from capdec.prepare import report_path

    judge = backbone_of(backbone, device) if given["visual"] == "likeness" else None
    report = run(inputs, output, words=words, backbone=judge, **given)
    table = Table(title=f"{report['read']:,} texts", title_justify="left")
    for column in ("", "texts", "%", "why", "for example"):
        table.add_column(column, justify="right" if column in ("texts", "%") else "left")
    for name, one in (("kept", report["kept"]), *report["dropped"].items()):
        if one["count"]:
            share = f"{100 * one['count'] / report['read']:.1f}"
            table.add_row(name, f"{one['count']:,}", share, one.get("why", ""), one_line(one["examples"][0], 100))
    Console(width=max(120, Console().width), highlight=False).print(table)
    written = report["written"]
    beside = f" and {written['plain']:,} plain captions: a share of {written['share']:.3f}" if given["mix"] else ""
    click.echo(f"Written to {output}: {written['corpus']:,} of the text's{beside}. All reasons, with examples: {report_path(output)}")
    click.echo(f"Train on it:  capdec train {output} --output DIR")


@click.command(epilog=choices())
@click.argument("captioner", required=False)
@click.argument("captions", required=False)
@click.option("--photos", help="Photos without captions: WebDataset shards, say.  [default: none, and the text's own noised embeddings stand in]")
@click.option(
    "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="The new captioner's folder. An unfinished run continues."
)
@click.option("--recipe", "recipe_file", type=click.Path(dir_okay=False), help="A TOML file with captioner, captions, photos and [refining].")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. refining.steps=500.")
@own_parts_option
@device_option
def refine(
    captioner: str | None,
    captions: str | None,
    photos: str | None,
    output: Path,
    recipe_file: str | None,
    assignments: tuple[str, ...],
    own_parts: bool,
    device: str,
) -> None:
    """Train CAPTIONER on from its own captions of photos that have none (CgT-GAN): rewarded for nearness to what CAPTIONS say of such photos, and for
    sounding like them."""
    from capdec import recipe
    from capdec.errors import SettingError
    from capdec.refine import refine as run

    table = recipe.read(recipe_file) if recipe_file else {}
    table |= {key: value for key, value in (("captioner", captioner), ("captions", captions), ("photos", photos)) if value is not None}
    table = recipe.override(table, assignments)
    table.pop("evaluation", None)
    known = ("captioner", "captions", "photos", "refining")
    if unknown := [key for key in table if key not in known]:
        raise SettingError(f"a recipe for refining has no {', '.join(map(repr, unknown))}. It has: {', '.join(known)}.")
    if "captioner" not in table or "captions" not in table:
        raise SettingError(
            "name a captioner that was trained, and the text: capdec refine CAPTIONER captions.jsonl --output DIR, or both in a recipe."
        )
    with resumable(f"{output} holds what was done"):
        made = run(**table, output=output, device=device, own_parts=own_parts)
    click.echo(f"Refined: {output}   given: {made.supervision.words()}")


@click.command(epilog=choices())
@click.argument("corpus", required=False, metavar="[CAPTIONS]")
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="A captioner's folder for each run is made in it.")
@click.option("--recipe", "recipe_file", type=click.Path(dir_okay=False), help="A TOML file that describes one run.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of all runs, e.g. training.steps=500.")
@click.option(
    "--over", multiple=True, metavar="KEY=[VALUE, ...]", help="What to try; several: all combinations.  [default: target cosines of the first bridge]"
)
@click.option("--seeds", default="0", show_default=True, help="Repeat each run with these seeds, e.g. 0,1,2.")
@partial(dataset_options, required=False)
@click.option("--metric", default="CIDEr", show_default=True, help="The figure to choose and draw by, where there are photos.")
@device_option
@decoding_options
def sweep(
    corpus: str | None,
    output: Path,
    recipe_file: str | None,
    assignments: tuple[str, ...],
    over: tuple[str, ...],
    seeds: str,
    metric: str,
    device: str,
    **given: Any,
) -> None:
    """Train the same captioner at several settings, several noise levels by default, and draw what becomes of it (sweep.svg, sweep.json, best.toml).

    With --dataset the photos' captions are scored; without one the held-out captions' siblings decide, and no photo is needed. Cut off and started
    again, it goes on; finished runs are kept.
    """
    from capdec import generation, recipe
    from capdec.errors import SettingError
    from capdec.sweep import sweep as run

    table = recipe.read(recipe_file) if recipe_file else {}
    begun = _config_of(table["start"]) if table.get("start") else {}
    table = {"bridges": begun["bridges"], **table} if begun else table
    table = _with_a_bridge(table, [one.partition("=")[0] for one in assignments], 0.5)
    table = recipe.override({**table, **({"captions": corpus} if corpus else {})}, assignments)
    table = {"bridges": [{"name": "gaussian_noise", "target_cosine": 0.5}], **table}
    table.pop("evaluation", None)  # its dataset is the one to be scored once, in the end
    if "captions" not in table:
        raise SettingError("no captions were named. Give a file: capdec sweep captions.jsonl --output DIR, or name one in the recipe.")
    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise SettingError(f"--seeds takes numbers with commas between them, for example 0,1,2; this came: {seeds!r}.")
    tried = dict(recipe.read_assignment(one) for one in over)
    if wrong := [key for key, values in tried.items() if not isinstance(values, list)]:
        raise SettingError(f"--over takes a list, for example bridges.0.std=[0.05, 0.1]; that of {', '.join(wrong)} is none.")
    about = ("annotations", "images", "split", "dataset_style", "name", "partial")
    idle = [f"--{key.replace('_', '-')}" for key in about if given[key] and not given["dataset"]]
    if idle:
        raise SettingError(f"{', '.join(idle)} say something of --dataset, and none was given.")
    dataset = dataset_of(given) if given["dataset"] else None
    own = generation.changed(generation.settings(begun.get("decoding", {})), table.get("decoding", {}))
    asked = decoding_of(own, given)
    with resumable(f"{output} holds what was done"):
        points = run(
            table, output, tried or None, seeds=[int(seed) for seed in seeds.split(",")], dataset=dataset, metric=metric,
            decoding=None if asked == own else asked, device=device, partial=given["partial"],
        )  # fmt: skip
    for point in points:
        shown = ", ".join(f"{key} = {value}" for key, value in point["settings"].items()) or "as it is"
        spread = f" [{point['low']:.2f}, {point['high']:.2f}]" if "low" in point else ""
        click.echo(f"{point['value']:8.3f}{spread}   {shown}")
    click.echo(f"\nThe curve: {output / 'sweep.svg'}   the best setting's recipe: {output / 'best.toml'}")


@click.command("import-checkpoint")
@click.argument("file")
@click.option("--format", "kind", required=True, type=click.Choice(["clipcap", "capdec", "decap"]), help="Whose the file is.")
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="The captioner's folder.")
@click.option("--backbone", required=True, help="What it was trained with: a hub id or folder (CapDec: timm/resnet50x4_clip.openai).")
@click.option("--memory", type=click.Path(exists=True, file_okay=False), help="DeCap's memory: a folder that `capdec train --embeddings` filled.")
@click.option("--variance", type=float, help="Of the noise it was trained with, for the record.")
@click.option("--tokenizer", default="openai/clip-vit-base-patch32", show_default=True, help="CLIP's, for DeCap's captions.")
@click.option("--language-model", default="openai-community/gpt2", show_default=True, help="For the tokenizer and the sizes: a hub id or a folder.")
@click.option("--mapper-heads", default=8, show_default=True, help="Attention heads of a transformer mapper, which no shape says.")
@click.option("--pairs/--text-only", default=None, help="What it was trained on.  [default: ClipCap on pairs, the others on text alone]")
@click.option(
    "--text", multiple=True, metavar="DATASET", help="Of which datasets its captions were (coco, say): scores on them are of its own domain."
)
def import_checkpoint(file: str, output: Path, backbone: str, pairs: bool | None, **given: Any) -> None:
    """Read the weights that authors released (a state dict, FILE) into a captioner's folder. No code in FILE is run."""
    from capdec.import_checkpoint import import_checkpoint as run

    captioner = run(file, output, backbone=part("backbones", backbone), paired=pairs, **given)
    click.echo(f"Read: {output}   decoder: {captioner.spec['decoder']}\nTry it:  capdec caption PHOTO... --captioner {output}")


@click.command()
@click.option("--recipe", "recipe_file", required=True, type=click.Path(dir_okay=False), help="A TOML file, e.g. recipes/mini.toml.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. distil_steps=50000.")
def pretrain(recipe_file: str, assignments: tuple[str, ...]) -> None:
    """Train a mini backbone from photos, captions and a teacher. Killed and started again, it goes on where it was."""
    import inspect

    from capdec import recipe
    from capdec.errors import SettingError
    from capdec.pretrain import pretrain as run

    table = recipe.override(recipe.read(recipe_file), assignments)
    takes = inspect.signature(run).parameters
    unknown = [key for key in table if key not in takes]
    missing = [key for key, one in takes.items() if one.default is one.empty and not table.get(key)]
    if unknown or missing:
        raise SettingError(f"pretrain has no setting {unknown} and still needs {missing}; its settings: {', '.join(takes)}.")
    with resumable(f"{table['output']} holds what was done"):
        measured = run(**table)
    for name, value in measured.items():
        click.echo(f"{name:<24} {value:6.2f}")


COMMANDS = (train, prepare, refine, sweep, import_checkpoint, pretrain)
