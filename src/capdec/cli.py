"""The command line. Each command reads its arguments, calls one job and shows the result; torch is imported only inside commands that compute."""

import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capdec import __version__, parts
from capdec.errors import CapdecError

if TYPE_CHECKING:
    from capdec.caption import Record
    from capdec.protocols import Decoding

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class _Group(click.Group):
    """Errors raised on purpose become one line and exit status 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CapdecError as error:
            click.echo(f"Error: {error}", err=True)
            context.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="capdec")
def main() -> None:
    """The image captioner you train from text alone."""


def _decoding(command: Callable) -> Callable:
    """The options of a search; those not given are the captioner's own."""
    options = [
        click.option("--strategy", type=click.Choice(["beam", "greedy", "nucleus"]), help="How captions are searched for."),
        click.option("--beams", type=int, help="Beams of beam search."),
        click.option("--captions", type=int, help="Captions a photo: the best and its alternatives."),
        click.option("--max-tokens", type=int, help="Longest caption, in tokens, its end included."),
        click.option("--length-penalty", type=float, help="Scores are log-probability / tokens ** this."),
        click.option("--no-repeat-ngram-size", type=int, help="No run of so many tokens comes twice; 0 allows all."),
        click.option("--top-p", type=float, help="Share of probability that nucleus sampling keeps."),
        click.option("--temperature", type=float, help="Of nucleus sampling."),
        click.option("--seed", type=int, help="Of nucleus sampling."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _decoding_of(default: "Decoding", given: dict[str, Any]) -> "Decoding":
    from dataclasses import fields, replace

    from capdec.generation import check

    decoding = replace(default, **{field.name: given[field.name] for field in fields(default) if given.get(field.name) is not None})
    check(decoding)
    return decoding


captioner_option = click.option(
    "--captioner", default="flickr", show_default=True, metavar="NAME|DIR|HUB_ID", help="An embedded captioner, a folder, or a hub id (@revision)."
)
own_parts_option = click.option("--own-parts", is_flag=True, help="Allow a captioner to run parts that its maker wrote: code. Only if you trust it.")
device_option = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@captioner_option
@own_parts_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON lines to this file.")
@click.option("--write", "beside", type=click.Choice(["txt"]), help="Also write each caption beside its photo.")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Photos at a time.")
@device_option
@_decoding
def caption(
    paths: tuple[str, ...], captioner: str, output: Path | None, beside: str | None, own_parts: bool, batch: int, device: str, **decoding: Any
) -> None:
    """Caption photos: files, folders, patterns, URLs, or - for paths on stdin.

    On a terminal the captions are shown as they come; into a pipe or a file go JSON lines (path, caption, score, alternatives if asked for). The exit
    status is 1 if any photo failed; the others are captioned all the same.
    """
    from capdec.caption import caption_files, write_records
    from capdec.captioner import Captioner
    from capdec.images import find_images

    loaded = Captioner.load(captioner, device, own_parts=own_parts)
    records = caption_files(loaded, find_images(paths), _decoding_of(loaded.decoding, decoding), batch)
    done = failed = 0
    for standard in (sys.stdout, sys.stderr):  # a file name that is no text is written with JSON's own escapes
        if isinstance(standard, io.TextIOWrapper):
            standard.reconfigure(errors="backslashreplace")
    part = output.with_name(output.name + ".part") if output else None  # under its own name only when it is whole
    on_terminal = output is not None or sys.stdout.isatty()
    stream = part.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) if part else None
    write = stream.write if stream else None if on_terminal else partial(print, end="", flush=True)
    try:
        for record in write_records(records, write, beside == "txt"):
            done, failed = done + 1, failed + (record.error is not None)
            if on_terminal:
                _show(record)
            elif record.error:
                click.echo(f"failed: {record.path}: {record.error}", err=True)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted after {done} photos" + (f"; their captions are in {part}." if part else "."), err=True)
        raise SystemExit(130) from None
    if stream and part and output:
        stream.close()
        part.replace(output)
    if on_terminal or failed:
        click.echo(f"{done - failed} captioned, {failed} failed" + (f", written to {output}" if output else ""), err=True)
    raise SystemExit(1 if failed else 0)


def _show(record: "Record") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    name = record.path if len(record.path) <= 32 else "…" + record.path[-31:]
    if record.caption is None:
        console.print(Text.assemble((f"{name:<32}  ", "cyan"), (f"failed: {record.error}", "red")))
        return
    console.print(Text.assemble((f"{name:<32}  ", "cyan"), record.caption.text, (f"  {record.caption.score:.2f}", "dim")))
    for other in record.caption.alternatives:
        console.print(Text.assemble(" " * 34, (other.text, "dim"), (f"  {other.score:.2f}", "dim")))


def _choices() -> str:
    return "\n\n".join(f"{kind}: {', '.join(parts.names(kind))}" for kind in parts.KINDS)


def _part(kind: str, text: str) -> str | dict[str, Any]:
    """What --backbone and --decoder take: the name of a part, a part of one's own (module:Class), or a model of Hugging Face's."""
    if text in parts.names(kind) or ":" in text:
        return text
    if kind == "backbones" and (Path(text) / "mini.safetensors").is_file():
        return {"name": "mini", "folder": text}
    if "/" in text or Path(text).is_dir():
        model, _, revision = text.partition("@")
        return {"name": "huggingface" if kind == "backbones" else "prefix_lm", "model": model, **({"revision": revision} if revision else {})}
    return text  # unknown: building it says what there is


@main.command(epilog=_choices())
@click.argument("captions", required=False)
@click.option(
    "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="The captioner's folder. An unfinished run continues."
)
@click.option("--sources", help="What the captions are told from, joined by image_id (a style's or a language's plain captions).")
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
@device_option
def train(
    captions: str | None,
    output: Path,
    sources: str | None,
    recipe_file: str | None,
    backbone: str | None,
    decoder: str | None,
    assignments: tuple[str, ...],
    steps: int | None,
    dtype: str | None,
    embeddings: str | None,
    device: str,
) -> None:
    """Train a captioner from CAPTIONS: a text file (a caption a line), JSON lines, CSV, TSV, Parquet, or COCO's or Karpathy's JSON.

    No image is needed. Killed and started again, it goes on where it was. Several processes: torchrun --nproc-per-node 2 -m capdec train ...
    """
    from capdec import recipe
    from capdec.errors import SettingError

    table = recipe.read(recipe_file) if recipe_file else {}
    given = {"captions": captions, "sources": sources}
    table |= {key: value for key, value in given.items() if value is not None}
    table |= {key: _part(f"{key}s", value) for key, value in (("backbone", backbone), ("decoder", decoder)) if value is not None}
    short = {"training.steps": steps, "training.dtype": dtype}
    table = recipe.override(table, [*(f"{key}={value}" for key, value in short.items() if value is not None), *assignments])
    known = ("captions", "sources", "backbone", "bridges", "decoder", "training")
    unknown = [key for key in table if key not in known]
    if unknown:
        raise SettingError(f"a recipe for training has no {', '.join(map(repr, unknown))}. It has: {', '.join(known)}.")
    if "captions" not in table:
        raise SettingError("no captions were named. Give a file: capdec train captions.txt --output DIR, or name one in the recipe.")

    from capdec.train import train as run

    try:
        captioner = run(**table, output=output, device=device, embeddings=embeddings)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {output / 'training'} holds the last checkpoint. Run the same command to continue.", err=True)
        raise SystemExit(130) from None
    if int(os.environ.get("RANK", "0")) == 0:
        click.echo(f"Trained: {output}   bridges: {captioner.spec['bridges']}")
        click.echo(f"Try it:  capdec caption PHOTO... --captioner {output}")


@main.command(epilog=_choices())
@click.argument("captioner")
@click.option("--dataset", required=True, help="Captioned photos: WebDataset shards, or a JSON file with --images.")
@click.option("--images", help="The photos' folder, where the dataset is a JSON file.")
@own_parts_option
@click.option("--split", help="Of a Karpathy file: val, test ...")
@click.option("--name", help="Which dataset the shards are (flickr8k, say): tells whether the backbone has seen its pairs.")
@click.option("--memory", help="Training captions, for the baselines nearest and constant caption.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Write predictions.jsonl and scores.json here.")
@device_option
@_decoding
def evaluate(
    captioner: str,
    dataset: str,
    images: str | None,
    own_parts: bool,
    split: str | None,
    name: str | None,
    memory: str | None,
    output: Path | None,
    device: str,
    **decoding: Any,
) -> None:
    """Score CAPTIONER on captioned photos, beside its own captions shuffled, the nearest training caption and a constant one."""
    from rich.console import Console
    from rich.table import Table

    from capdec.captioner import Captioner
    from capdec.corpus import open_dataset, read_pairs
    from capdec.evaluate import evaluate as run

    loaded = Captioner.load(captioner, device, own_parts=own_parts)
    texts = read_pairs(open_dataset(memory)).targets if memory else ()
    settings = {key: value for key, value in (("images", images), ("split", split), ("dataset", name)) if value}
    report = run(loaded, open_dataset(dataset, **settings), output, memory=texts, decoding=_decoding_of(loaded.decoding, decoding))
    table = Table(title=f"{report['n']} photos, {report['supervision']}")
    names = list(next(iter(report["scores"].values())))
    table.add_column("captions")
    for column in names:
        table.add_column(column, justify="right")
    for system, values in report["scores"].items():
        cells = [
            f"{one['value']:.1f}" + (f" [{one['low']:.1f}, {one['high']:.1f}]" if "low" in one else "")
            for one in (values[column] for column in names)
        ]
        table.add_row(system, *cells)
    Console(width=max(120, Console().width)).print(table)


@main.command()
@click.argument("folder", required=False)
@click.option("--output", default="out/demo.html", show_default=True, type=click.Path(dir_okay=False, path_type=Path), help="The gallery.")
@captioner_option
@own_parts_option
@device_option
def demo(folder: str | None, output: Path, captioner: str, own_parts: bool, device: str) -> None:
    """Caption the photos of FOLDER, or some that scikit-image ships, and write a gallery to look at."""
    from dataclasses import replace

    from capdec.caption import Record
    from capdec.captioner import Captioner, embedded
    from capdec.demo import ABOUT
    from capdec.demo import demo as run

    loaded = Captioner.load(captioner, device, own_parts=own_parts)
    about = ABOUT if captioner in embedded() else f"Captions by {captioner}, a captioner trained from text. Its model card says from which."
    for entry in run(loaded, folder, output, replace(loaded.decoding, captions=3), about):
        _show(Record(entry.name, entry.caption, entry.error))
    click.echo(f"\n{about}\n\nGallery: {output}")


@main.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
def models(folder: Path) -> None:
    """List the models that travel in the package and the captioners in FOLDER and its folders."""
    from capdec.captioner import licence, listing

    for name, what, size in listing(folder):
        click.echo(f"{name:<24} {size / 1e6:6.1f} MB   {what}")
    click.echo(f"\nThe embedded weights have terms of their own:\n\n{licence()}")


@main.command()
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
    for name, value in run(**table).items():
        click.echo(f"{name:<24} {value:6.2f}")


if __name__ == "__main__":
    main()
