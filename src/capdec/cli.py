"""The command line. Each command reads its arguments, calls one job and shows the result; torch is imported only inside commands that compute."""

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capdec import __version__, parts
from capdec.errors import CapdecError, one_line

if TYPE_CHECKING:
    from capdec.caption import Record
    from capdec.protocols import Backbone, Decoding

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class _Group(click.Group):
    """Errors raised on purpose become one line and exit status 2; a warning is a line too, without the place in the code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: click.echo(f"Note: {message}", err=True)
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
        click.option("--style", help="One of those that the captioner learned."),
        click.option("--length", type=click.Choice(["short", "medium", "long"]), help="For a captioner that learned lengths."),
        click.option("--min-tokens", type=int, help="Shortest caption, in tokens, its end included."),
        click.option("--max-tokens", type=int, help="Longest caption, in tokens, its end included."),
        click.option("--length-penalty", type=float, help="Scores are log-probability / tokens ** this."),
        click.option("--no-repeat-ngram-size", type=int, help="No run of so many tokens comes twice; 0 allows all."),
        click.option("--top-p", type=float, help="Share of probability that nucleus sampling keeps."),
        click.option("--temperature", type=float, help="Of nucleus sampling."),
        click.option("--seed", type=int, help="Of nucleus sampling."),
        click.option("--rerank", type=click.Choice(["none", "clip", "consensus", "neighbours"]), help="Which of the candidates is the best."),
        click.option("--candidates", type=int, help="Captions a photo that --rerank chooses among.  [default: as many as --captions]"),
        click.option("--score-weight", type=float, help="How much a candidate's own score counts beside what --rerank says of it."),
        click.option("--neighbours", type=int, help="Captions of the memory that --rerank neighbours asks."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _decoding_of(default: "Decoding", given: dict[str, Any]) -> "Decoding":
    from dataclasses import fields

    from capdec.generation import changed

    return changed(default, {field.name: given[field.name] for field in fields(default) if given.get(field.name) is not None})


captioner_option = click.option(
    "--captioner", default="flickr", show_default=True, metavar="NAME|DIR|HUB_ID", help="An embedded captioner, a folder, or a hub id (@revision)."
)
own_parts_option = click.option("--own-parts", is_flag=True, help="Allow a captioner to run parts that its maker wrote: code. Only if you trust it.")
device_option = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="What is computed in. bfloat16 rounds a little; auto takes it where the processor is made for it.",
)


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@captioner_option
@own_parts_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON lines to this file.")
@click.option("--write", "beside", type=click.Choice(["txt"]), help="Also write each caption beside its photo.")
@click.option("--sure", is_flag=True, help="Say nothing of a photo where the captioner is unsure (capdec calibrate).")
@click.option("--min-confidence", type=click.FloatRange(0, 1), help="Say nothing below this confidence.  [default with --sure: the captioner's own]")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Photos at a time.")
@click.option("--frames", type=click.IntRange(min=1), default=8, show_default=True, help="Frames of a video that are looked at.")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "projected"]),
    default="mean",
    show_default=True,
    help="Of a video: the mean of its frames, or of what the bridges make of each.",
)
@device_option
@dtype_option
@_decoding
def caption(
    paths: tuple[str, ...],
    captioner: str,
    output: Path | None,
    beside: str | None,
    sure: bool,
    min_confidence: float | None,
    own_parts: bool,
    batch: int,
    frames: int,
    pooling: str,
    device: str,
    dtype: str,
    **decoding: Any,
) -> None:
    """Caption photos and videos: files, folders, patterns, URLs (of photos), or - for paths on stdin.

    On a terminal the captions are shown as they come; into a pipe or a file go JSON lines (path, caption, score, confidence where the captioner was
    calibrated, the number of a video's frames, alternatives if asked for). The exit status is 1 if any failed; the others are captioned all the same.
    """
    from capdec.caption import caption_files, write_records
    from capdec.captioner import Captioner
    from capdec.images import SUFFIXES, find_images
    from capdec.video import SUFFIXES as VIDEOS

    loaded = Captioner.load(captioner, device, own_parts=own_parts, dtype=dtype)
    if sure and min_confidence is None:
        min_confidence = loaded.confidence.threshold if loaded.confidence else 1.0
    found, asked = find_images(paths, SUFFIXES + VIDEOS), _decoding_of(loaded.decoding, decoding)
    records = caption_files(loaded, found, asked, batch, frames=frames, pooling=pooling, least=min_confidence)
    done = failed = withheld = 0
    for standard in (sys.stdout, sys.stderr):  # a file name that is no text is written with JSON's own escapes
        if isinstance(standard, io.TextIOWrapper):
            standard.reconfigure(errors="backslashreplace")
    part = output.with_name(output.name + ".part") if output else None  # under its own name only when it is whole
    on_terminal = output is not None or sys.stdout.isatty()
    stream = part.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) if part else None
    write = stream.write if stream else None if on_terminal else partial(print, end="", flush=True)
    try:
        for record in write_records(records, write, beside == "txt"):
            done, failed, withheld = done + 1, failed + (record.error is not None), withheld + record.withheld
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
        unsaid = f", {withheld} unsure" if min_confidence is not None else ""
        click.echo(f"{done - failed - withheld} captioned{unsaid}, {failed} failed" + (f", written to {output}" if output else ""), err=True)
    raise SystemExit(1 if failed else 0)


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--output", required=True, metavar="DIR", help="Where captions go, in Parquet. An unfinished run continues.")
@captioner_option
@own_parts_option
@click.option("--column", help="Of Parquet: photos, their paths, or embeddings; of .safetensors: the tensor.  [default: the first of a usual name]")
@click.option("--key", help="The column that names rows.  [default: the first of a usual name]")
@click.option("--rows", type=click.IntRange(min=1), help="Rows of an output file; a tar shard makes one of its own.  [default: 1000]")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Photos or embeddings at a time.")
@click.option("--max-errors", type=click.IntRange(min=0), help="Stop when more rows than this have failed.  [default: go on]")
@click.option("--address", help="Of a Ray cluster.  [default: this machine alone]")
@click.option("--workers", type=click.IntRange(min=1), help="How many captioners.  [default: one for each GPU, or core]")
@click.option("--threads", type=click.IntRange(min=1), help="Cores of a worker.  [default: 1, or its share of those beside a GPU]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="auto: GPUs where there are any.")
@dtype_option
@_decoding
def bulk(inputs: tuple[str, ...], output: str, captioner: str, own_parts: bool, max_errors: int | None, **given: Any) -> None:
    """Caption a million photos, or stored embeddings: folders, patterns or files, local or on s3://, gs://, hf:// ...

    INPUT holds photos, WebDataset's .tar shards, Parquet with photos, paths or embeddings, or embeddings alone (.npy, .safetensors; clip-retrieval's
    folder). DIR gets captions/*.parquet: key, caption, score, alternatives, confidence, unsure, error. Killed at any moment and started again, it
    goes on, and each row comes once. The exit status is 1 if any row failed.
    """
    from capdec.bulk import bulk as run
    from capdec.captioner import Captioner

    own = {key: given.pop(key) for key in ("column", "key", "rows", "batch", "address", "workers", "threads", "device", "dtype")}
    decoding = _decoding_of(Captioner.load(captioner, own_parts=own_parts).decoding, given)
    try:
        summary = run(inputs, output, captioner, decoding, max_errors=max_errors, own_parts=own_parts, **own)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {output} holds what is finished. Run the same command to continue.", err=True)
        raise SystemExit(130) from None
    for failed in summary["first_errors"]:
        click.echo(f"failed: {failed['key']}: {failed['error']}", err=True)
    more = f"; {output}/errors.jsonl has them all" if summary["errors"] > len(summary["first_errors"]) else ""
    click.echo(f"{summary['captioned']:,} captioned, {summary['errors']:,} failed{more}, written to {output}/captions", err=True)
    raise SystemExit(1 if summary["errors"] else 0)


def _show(record: "Record") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    name = record.path if len(record.path) <= 32 else "…" + record.path[-31:]
    if record.caption is None:
        console.print(Text.assemble((f"{name:<32}  ", "cyan"), (f"failed: {record.error}", "red")))
        return
    sure = record.caption.confidence
    known = "" if sure is None else f"  {sure:.0%}{', unsure' if record.caption.unsure or record.withheld else ''}"
    if record.withheld:
        console.print(Text.assemble((f"{name:<32}  ", "cyan"), (known.strip(), "dim")))
        return
    console.print(Text.assemble((f"{name:<32}  ", "cyan"), record.caption.text, (f"  {record.caption.score:.2f}{known}", "dim")))
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
    if kind == "backbones" and (text.startswith("timm/") or (Path(text) / "open_clip_config.json").is_file()):
        return {"name": "openai", "model": text}
    if "/" in text or Path(text).is_dir():
        model, _, revision = text.partition("@")
        return {"name": "huggingface" if kind == "backbones" else "prefix_lm", "model": model, **({"revision": revision} if revision else {})}
    return text  # unknown: building it says what there is


@main.command(epilog=_choices())
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
    table |= {key: _part(f"{key}s", value) for key, value in (("backbone", backbone), ("decoder", decoder)) if value is not None}
    short = {"training.steps": steps, "training.dtype": dtype, "training.learn": learn}
    assignments = (*(f"{key}={value}" for key, value in short.items() if value is not None), *assignments)
    if table.get("start"):
        table = {**_settings_of(table["start"]), **table}
    table = recipe.override(_with_a_bridge(table, [one.partition("=")[0] for one in assignments], "auto"), assignments)
    unknown = [key for key in table if key not in recipe.KEYS]
    if unknown:
        raise SettingError(f"a recipe for training has no {', '.join(map(repr, unknown))}. It has: {', '.join(recipe.KEYS)}.")
    if "captions" not in table:
        raise SettingError("no captions were named. Give a file: capdec train captions.txt --output DIR, or name one in the recipe.")

    from capdec.train import train as run

    table.pop("evaluation", None)  # what `capdec evaluate --recipe` reads
    try:
        captioner = run(**table, output=output, device=device, embeddings=embeddings, own_parts=own_parts)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {output / 'training'} holds the last checkpoint. Run the same command to continue.", err=True)
        raise SystemExit(130) from None
    import torch.distributed as processes

    if processes.is_available() and processes.is_initialized():
        processes.destroy_process_group()  # in order: one that merely ends may abort another that still listens to it
    if int(os.environ.get("RANK", "0")) == 0:
        click.echo(f"Trained: {output}   bridges: {captioner.spec['bridges']}")
        click.echo(f"Try it:  capdec caption PHOTO... --captioner {output}")


@main.command()
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

    judge = parts.build("backbones", _part("backbones", backbone), device=device) if given["visual"] == "likeness" else None
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


@main.command(epilog=_choices())
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
    try:
        made = run(**table, output=output, device=device, own_parts=own_parts)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {output / 'refining'} holds the last checkpoint. Run the same command to continue.", err=True)
        raise SystemExit(130) from None
    click.echo(f"Refined: {output}   given: {made.supervision.words()}")


def _in_styles(captions: Any, styles: Sequence[str]) -> Any:
    """What `train` takes for captions, and others in styles that have names. Raises SettingError."""
    from capdec.errors import SettingError

    named = [one.partition("=") for one in styles]
    if wrong := [one for one, (name, _, file) in zip(styles, named, strict=True) if not (name and file)]:
        raise SettingError(f"--style takes NAME=FILE, for example romantic=romantic.jsonl; this came: {wrong[0]!r}.")
    tables = [{"path": file, "as": name} for name, _, file in named]
    plain = captions if isinstance(captions, list) else [captions] if captions else []
    return [*plain, *tables] if tables else captions


def _settings_of(captioner: str) -> dict[str, Any]:
    """Its bridges and its decoding, for settings to change."""
    import json

    from capdec.captioner import locate

    config = json.loads((locate(captioner) / "config.json").read_text(encoding="utf-8"))
    return {"bridges": config["bridges"], "decoding": config["decoding"]}


def _dataset(command: Callable, required: bool = True) -> Callable:
    """The options that name a dataset."""
    options = [
        click.option("--dataset", required=required, help="Captioned photos: a benchmark's name (coco, nocaps ...) with --annotations, or a file."),
        click.option("--annotations", help="The benchmark's file as its owners publish it."),
        click.option("--images", help="The photos' folder, where the annotations are a file."),
        click.option("--split", help="train, val, test ..."),
        click.option("--dataset-style", help="Of flickr_style: romantic or humorous."),
        click.option("--name", help="Which dataset a file of one's own is (flickr8k, say): tells whether the backbone has seen its pairs."),
        click.option("--partial", is_flag=True, help="Score a part of the split: what is missing is left out, and counted."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _spec(given: dict[str, Any], default: str | dict[str, Any] | None = None) -> dict[str, Any]:
    """The dataset's table that the options of `_dataset` make, or a recipe's with what they change in it. A setting that its part does not take will
    be an error that shows those it takes; what is partial is the evaluation's matter too, so a part that knows nothing of it is not told."""
    from capdec.corpus import dataset_part
    from capdec.errors import SettingError

    settings = {key.removeprefix("dataset_"): given[key] for key in ("images", "split", "dataset_style") if given.get(key)}
    settings |= {"dataset": given["name"]} if given["name"] else {}
    settings |= {"path": given["annotations"]} if given["annotations"] else {}
    asked = given["dataset"]
    if asked and asked not in parts.names("datasets"):
        if given["annotations"]:
            choices = ", ".join(parts.names("datasets"))
            raise SettingError(
                f"--annotations are a benchmark's file, and {asked!r} is no benchmark: it is one of {choices}. A file of your own needs none."
            )
        table = {"path": asked, **settings}
    else:
        table = {"name": asked, **settings} if asked else {**({"path": default} if isinstance(default, str) else default or {}), **settings}
    if not (asked or table.get("name") or table.get("path")):
        return {}
    name = table.get("name") or dataset_part(table.get("path", ""))
    part = parts.find("datasets", name)
    if "path" not in table:
        raise SettingError(f"--dataset {name} needs its file: --annotations. {getattr(part, 'source', '')}".rstrip())
    return {**table, "partial": True} if given["partial"] and "partial" in parts.settings(part) else table


def _of_groups(system: str, groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{system}, {name} ({found['n']})": {key: one for key, one in found.items() if key != "n"} for name, found in groups.items()}


def _of_how_many(scores: dict[str, Any], what: str) -> str:
    left_out = f", {scores['left_out']} of the split left out: its figures do not compare with those of the whole" if scores["left_out"] else ""
    return f"{scores['n']} {what}{left_out}"


def _with_a_bridge(table: dict[str, Any], keys: Sequence[str], cosine: float | str) -> dict[str, Any]:
    """The recipe with CapDec's bridge, where it names none and `keys` are to change it: at this target cosine, if they do not set the noise."""
    if "bridges" in table or not any(key.startswith("bridges.0.") for key in keys):
        return table
    noisy = any(key in ("bridges.0.std", "bridges.0.variance", "bridges.0.target_cosine", "bridges.0.name") for key in keys)
    return {**table, "bridges": [{"name": "gaussian_noise", **({} if noisy else {"target_cosine": cosine})}]}


def _judge(name: str | None, device: str) -> "Backbone | None":
    return parts.build("backbones", _part("backbones", name), device=device) if name else None


def _figures(systems: dict[str, dict[str, dict[str, Any]]], title: str) -> None:
    """A row a figure, a column a system; what was not computed is a dash, and the reasons stand below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for system in systems:
        table.add_column(system, justify="right")
    notes: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for figures in systems.values() for name in figures):
        cells = []
        for one in (figures.get(name, {"value": None}) for figures in systems.values()):
            spread = f" [{one['low']:.1f}, {one['high']:.1f}]" if "low" in one else ""
            cells.append("-" if one["value"] is None else f"{one['value']:.1f}{spread}")
            if "note" in one:
                notes.setdefault(one["note"], []).append(name)
        table.add_row(name, *cells)
    console = Console(width=max(40 + 22 * len(systems), Console().width))
    console.print(table)
    for note, names in notes.items():
        console.print(f"{', '.join(dict.fromkeys(names))}: {note}", style="dim", highlight=False)


@main.command(epilog=_choices())
@click.argument("captioner", default="flickr")
@partial(_dataset, required=False)
@click.option(
    "--recipe", "recipe_file", type=click.Path(dir_okay=False), help="Dataset, memory and metrics of a recipe's [evaluation], where not given here."
)
@own_parts_option
@click.option("--memory", help="Training captions, for the baselines nearest and constant caption and the share of copied captions.")
@click.option("--memory-name", help="Which dataset the training captions are of: tells whether they are of the target domain.")
@click.option("--memory-sources", help="What is embedded for them, joined by image_id, where the backbone does not read their language.")
@click.option("--language", metavar="CODE", help="Of the references: en, de ...  [default: the captioner's]")
@click.option("--judge", metavar="NAME|DIR|HUB_ID", help="The backbone that says how captions fit photos.  [default: the captioner's own]")
@click.option("--metrics", help="Which metrics, with commas between them.  [default: all]")
@click.option("--output", default="out/evaluation", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Where it is written.")
@device_option
@_decoding
def evaluate(
    captioner: str,
    recipe_file: str | None,
    own_parts: bool,
    memory: str | None,
    memory_name: str | None,
    memory_sources: str | None,
    language: str | None,
    judge: str | None,
    metrics: str | None,
    output: Path,
    device: str,
    **given: Any,
) -> None:
    """Score CAPTIONER (default: the embedded one) on captioned photos, beside its own captions shuffled, the nearest training caption, a constant one
    and a person's.

    Writes predictions.jsonl, scores.json and manifest.json; `capdec report` makes a page of them. Cut off and started again, it goes on.
    """
    from capdec import recipe, scoring
    from capdec.captioner import Captioner
    from capdec.errors import SettingError
    from capdec.evaluate import evaluate as run

    asked = recipe.read(recipe_file).get("evaluation", {}) if recipe_file else {}
    dataset = _spec(given, asked.get("dataset"))
    if not dataset:
        raise SettingError("no photos were named. Give --dataset: captioned photos, or a benchmark's name with --annotations and --images.")
    loaded = Captioner.load(captioner, device, own_parts=own_parts)
    if memory_name and not memory:
        raise SettingError(f"--memory-name {memory_name} names the text of --memory, and none was given.")
    embedded = memory_sources or asked.get("memory_sources")
    text = {"path": memory, **({"dataset": memory_name} if memory_name else {})} if memory else asked.get("memory")
    chosen = metrics.split(",") if metrics else asked.get("metrics", scoring.METRICS)
    decoding = _decoding_of(loaded.decoding, given)
    scores = run(
        loaded, dataset, output, memory=text, memory_sources=embedded, judge=_judge(judge, device), metrics=chosen, decoding=decoding,
        partial=given["partial"], language=language,
    )  # fmt: skip
    _figures({**scores["systems"], **_of_groups("itself", scores["groups"])}, _of_how_many(scores, "photos"))
    for system, words in scores["supervision"].items():
        click.echo(f"{system:<10} was given: {words}")
    click.echo(f"\nWritten to {output}. A page to look at: capdec report {output}")


@main.command()
@click.argument("captioner")
@partial(_dataset, required=True)
@click.option("--precision", type=float, default=0.5, show_default=True, help="Unsure is what is below the captions that are right this often.")
@click.option("--coverage", type=float, help="Instead: the share of captions that are not unsure.")
@click.option("--draws", type=int, default=0, show_default=True, help="Further captions of each photo, ever after, to see whether they agree: dear.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The file.  [default: confidence.json in the captioner's folder]")
@own_parts_option
@device_option
@_decoding
def calibrate(
    captioner: str, precision: float, coverage: float | None, draws: int, output: Path | None, own_parts: bool, device: str, **given: Any
) -> None:
    """Teach CAPTIONER, a folder, how sure to be of its captions, on captioned photos that neither it nor its backbone learned from.

    From then on its captions say with which probability everything they name is there, and which are unsure: for the decoding that it was calibrated
    for alone.
    """
    from capdec.calibrate import calibrate as run
    from capdec.captioner import Captioner
    from capdec.confidence import FILE
    from capdec.errors import SettingError

    if output is None and not Path(captioner).is_dir():
        raise SettingError(f"{captioner} is no folder to write {FILE} into. Say where with --output, or calibrate a copy in a folder of your own.")
    loaded = Captioner.load(captioner, device, own_parts=own_parts)
    file = output or Path(captioner) / FILE
    made = run(loaded, _spec(given), file, decoding=_decoding_of(loaded.decoding, given), precision=precision, coverage=coverage, draws=draws)
    record = made.record
    worth, n = record["cross_validated"], record["dataset"]["n"]
    click.echo(f"{n} captions, {record['share_right']:.0%} right: each {record['right']}\n\nsignal      alone (AUROC)   weight")
    for name, one in made.signals.items():
        click.echo(f"{name:<12}{record['auroc_alone'][name]:13.3f}   {one.weight:+6.2f}")
    click.echo(f"{'together':<12}{worth['auroc']:13.3f}   cross-validated, as is all below")
    click.echo(f"\nBrier {worth['brier']:.3f} (the share right alone: {worth['brier_of_share_right']:.3f})   error {worth['calibration_error']:.3f}")
    click.echo(f"unsure below {made.threshold:.3f}: {worth['coverage']:.0%} of captions are not, and {worth['precision']:.0%} of these are right")
    click.echo(f"\nWritten to {file}")


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--picture", default="coverage.svg", show_default=True, help="The picture's name; .png works too.")
def coverage(folder: Path, picture: str) -> None:
    """What confidence is worth: how good the captions are of which a captioner is surest. FOLDER is what `capdec evaluate` wrote for one that was
    calibrated; coverage.json and a picture (needs plot) go there too."""
    from rich.console import Console
    from rich.table import Table

    from capdec.coverage import coverage as run

    found = run(folder, picture)
    table = Table(title=f"{found['n']} photos; brackets are 95 % intervals", title_justify="left")
    for column in ("coverage", *found["by"]["confidence"][0]["figures"]):
        table.add_column(column, justify="right")
    for order, rows in found["by"].items():
        table.add_section()
        table.add_row(f"by {order}")
        for row in rows:
            shown = [f"{one['value']:.1f} [{one['low']:.1f}, {one['high']:.1f}]" for one in row["figures"].values()]
            table.add_row(f"{row['coverage']:.0%}", *shown)
    console = Console(width=max(130, Console().width))
    console.print(table)
    for order, one in found["aurc"].items():
        console.print(f"AURC, {order:<22}{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]", highlight=False, markup=False)
    for name, one in found["reliability"].items():
        if name != "bins":
            spread = f" [{one['low']:.3f}, {one['high']:.3f}]" if "low" in one else ""
            console.print(f"{name:<28}{one['value']:.3f}{spread}", highlight=False, markup=False)
    said = f", {found['sure']['right']:.1%} of them right" if found["sure"]["right"] is not None else ""
    click.echo(f"not unsure: {found['sure']['coverage']:.1%} of captions{said}; of all captions {found['right']:.1%} are right")
    click.echo(f"\nWritten to {folder}: coverage.json, {picture}")


@main.command(epilog=_choices())
@click.argument("predictions")
@click.option("--references", required=True, help="COCO annotations, Karpathy's JSON, JSON lines ..., or a benchmark's name with --annotations.")
@click.option("--annotations", help="The benchmark's file as its owners publish it.")
@click.option("--images", help="The photos' folder, for what the judge says.")
@click.option("--split", help="Of the references: train, val, test ...")
@click.option("--dataset-style", help="Of flickr_style: romantic or humorous.")
@click.option("--partial", is_flag=True, help="Score only the images that have a prediction: such figures compare with none of the whole split.")
@click.option("--judge", metavar="NAME|DIR|HUB_ID", help="The backbone that says how captions fit photos.")
@click.option("--language", metavar="CODE", default="en", show_default=True, help="Of captions and references: en, de ...")
@click.option("--metrics", help="Which metrics, with commas between them.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@device_option
def score(predictions: str, references: str, judge: str | None, language: str, metrics: str | None, as_json: bool, device: str, **given: Any) -> None:
    """Score any system's captions: PREDICTIONS is COCO's result format, or JSON lines with image_id and caption."""
    import json

    from capdec import scoring
    from capdec.score import score as run

    dataset = scoring.open_references(_spec({**given, "dataset": references, "name": None}))
    chosen = tuple(metrics.split(",")) if metrics else scoring.METRICS
    found = run(predictions, dataset, metrics=chosen, judge=_judge(judge, device), partial=given["partial"], language=language)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    name = Path(predictions).name
    _figures({name: found["figures"], **_of_groups(name, found["groups"])}, _of_how_many(found, "images"))


@main.command()
@click.argument("first")
@click.argument("second")
@click.option("--metrics", default="coco_scores", show_default=True, help="Which metrics to make again, with commas between them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: str, second: str, metrics: str, as_json: bool) -> None:
    """Compare two evaluations by a paired bootstrap over images. FIRST and SECOND are folders that `capdec evaluate` wrote, or patterns in quotation
    marks that match several of one captioner with different seeds."""
    import glob
    import json

    from rich.console import Console
    from rich.table import Table

    from capdec.compare import compare as run

    sides = [sorted(glob.glob(side)) or [side] for side in (first, second)]  # noqa: PTH207 (patterns of absolute paths too)
    found = run(*sides, metrics=metrics.split(","))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(title=f"{len(sides[0])} against {len(sides[1])} evaluations; brackets are 95 % intervals of the difference", title_justify="left")
    for column in ("figure", "first", "second", "first - second", "p"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, one in found.items():
        apart = f"{one['difference']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"
        table.add_row(name, f"{one['first']:.2f}", f"{one['second']:.2f}", apart, f"{one['p']:.3f}")
    Console(width=max(100, Console().width)).print(table)


@main.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option("--output", default="out/report", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Where it is written.")
@click.option("--photos", type=click.IntRange(min=0), default=200, show_default=True, help="Photos shown: half are the best, half the worst.")
@click.option("--by", metavar="FIGURE", help="The figure of the first evaluation that says which photos are the best.  [default: CIDEr]")
@click.option("--own-parts", is_flag=True, help="Allow photos to be opened by a part that a dataset's maker wrote: code. Only if you trust it.")
def report(folders: tuple[str, ...], output: Path, photos: int, by: str | None, own_parts: bool) -> None:
    """Turn evaluations into a table (report.md) and a page with the photos (report.html). DIR... are folders that `capdec evaluate` wrote.

    The page holds everything it shows and can be mailed: sort its photos by any figure, and search their captions.
    """
    from capdec.report import report as run

    missing = run(folders, output, photos=photos, by=by, own_parts=own_parts)
    if missing:
        more = f" (and {len(missing) - 1:,} more; the page says them all)" if len(missing) > 1 else ""
        click.echo(f"Some pictures are missing: {missing[0]}{more}", err=True)
    click.echo(f"A table: {output / 'report.md'}   a page to look at: {output / 'report.html'}")


@main.command(epilog=_choices())
@click.argument("corpus", required=False, metavar="[CAPTIONS]")
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="A captioner's folder for each run is made in it.")
@click.option("--recipe", "recipe_file", type=click.Path(dir_okay=False), help="A TOML file that describes one run.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of all runs, e.g. training.steps=500.")
@click.option(
    "--over", multiple=True, metavar="KEY=[VALUE, ...]", help="What to try; several: all combinations.  [default: target cosines of the first bridge]"
)
@click.option("--seeds", default="0", show_default=True, help="Repeat each run with these seeds, e.g. 0,1,2.")
@partial(_dataset, required=False)
@click.option("--metric", default="CIDEr", show_default=True, help="The figure to choose and draw by, where there are photos.")
@device_option
@_decoding
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
    if table.get("start"):
        table = {**_settings_of(table["start"]), **table}
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
    dataset = _spec(given) if given["dataset"] else None
    own = generation.settings(table.get("decoding", {}))
    asked = _decoding_of(own, given)
    points = run(
        table, output, tried or None, seeds=[int(seed) for seed in seeds.split(",")], dataset=dataset, metric=metric,
        decoding=None if asked == own else asked, device=device, partial=given["partial"],
    )  # fmt: skip
    for point in points:
        shown = ", ".join(f"{key} = {value}" for key, value in point["settings"].items()) or "as it is"
        spread = f" [{point['low']:.2f}, {point['high']:.2f}]" if "low" in point else ""
        click.echo(f"{point['value']:8.3f}{spread}   {shown}")
    click.echo(f"\nThe curve: {output / 'sweep.svg'}   the best setting's recipe: {output / 'best.toml'}")


@main.command(epilog=_choices())
@click.option("--backbone", default="mini", show_default=True, help="A backbone's name, a hub id (@revision) or a folder.")
@click.option("--captions", required=True, help="Captions with image ids, several a photo.")
@click.option("--images", "photos", help="Photos (WebDataset shards, say), joined to the captions by image id where the ids are the same.")
@click.option("--output", default="out/gap", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Where it is written.")
@click.option("--picture", default="gap.svg", show_default=True, help="The picture's name; .png works too.")
@click.option("--most", default=25_000, show_default=True, help="Captions to embed, about.")
@device_option
def gap(backbone: str, captions: str, photos: str | None, output: Path, picture: str, most: int, device: str) -> None:
    """Measure a backbone's modality gap, and suggest from text alone how much noise crosses it."""
    from capdec.gap import gap as run

    found = run(parts.build("backbones", _part("backbones", backbone), device=device), captions, output, photos, most=most, picture=picture)
    click.echo(f"{found['backbone']}, {found['dim']} dimensions, {found['captions']} captions" + (f", {found['photos']} photos" if photos else ""))
    click.echo("\ncosines                      mean    5 %   95 %")
    for name, one in found["cosines"].items():
        click.echo(f"  {name:<25} {one['mean']:6.3f} {one['5%']:6.3f} {one['95%']:6.3f}")
    for name in ("text", "images"):
        if name in found:
            shown = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found[name].items())
            click.echo(f"\n{name}: {shown}")
    if "centres" in found:
        click.echo("\ncentres: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found["centres"].items()))
    click.echo("\nestimates                                 std  target cosine  from")
    for one in found["estimates"]:
        click.echo(f"  {one['name']:<37} {one['std']:6.4f}  {one['target_cosine']:13.3f}  {one['from']:<6} {one['why']}")
    suggestion = found["suggestion"]
    click.echo(f"\nFrom text alone: begin at target_cosine = {suggestion['target_cosine']:.2f} (std {suggestion['std']:.3f}), {suggestion['why']}.")
    click.echo(f"What trains best, still on text alone: capdec sweep {captions} --output out/sweep\nWritten to {output}")


@main.command("import-checkpoint")
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

    captioner = run(file, output, backbone=_part("backbones", backbone), paired=pairs, **given)
    click.echo(f"Read: {output}   decoder: {captioner.spec['decoder']}\nTry it:  capdec caption PHOTO... --captioner {output}")


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
@click.option(
    "--captioner",
    "names",
    multiple=True,
    default=("flickr",),
    show_default=True,
    metavar="NAME|DIR|HUB_ID",
    help="An embedded captioner, a folder, or a hub id (@revision). Several are all served; the first is the one that a request need not name.",
)
@own_parts_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. 0.0.0.0 is every network this machine is in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any that is free.")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Photos that go through the captioner together, at most.")
@click.option("--queue", type=click.IntRange(min=1), default=256, show_default=True, help="Photos that may wait; beyond that requests are refused.")
@click.option("--deadline", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="Seconds that a request may take.")
@click.option("--max-body-mb", type=click.FloatRange(0, min_open=True), default=32.0, show_default=True, help="Megabytes of one request.")
@click.option("--max-pixels", type=click.IntRange(min=1), default=50_000_000, show_default=True, help="Of one photo.")
@click.option("--max-inputs", type=click.IntRange(min=1), default=64, show_default=True, help="Photos of one request.")
@click.option("--allow-urls", is_flag=True, help="Fetch photos from addresses that requests name: public ones, ports 80 and 443.")
@click.option("--api-key", envvar="CAPDEC_API_KEY", help="What clients must send as Authorization: Bearer KEY.  [env: CAPDEC_API_KEY]")
@device_option
@dtype_option
def serve(names: tuple[str, ...], own_parts: bool, device: str, dtype: str, max_body_mb: float, **settings: Any) -> None:
    """Serve captions over HTTP: a page at /, POST /v1/captions for programs, its description at /docs.

    SIGTERM or Ctrl-C ends it when what is in hand is finished.
    """
    # Before torch is there: its threads would otherwise spin while they wait, on cores that open photos and speak HTTP meanwhile.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from capdec.captioner import Captioner
    from capdec.errors import SettingError
    from capdec.service import serve as run

    served = [Path(name).resolve().name if Path(name).is_dir() else name for name in names]  # clients need not know where it lies
    if len(set(served)) < len(served):
        raise SettingError(f"two captioners would have one name: {', '.join(served)}. Rename a folder.")
    loaded = [Captioner.load(name, device, own_parts=own_parts, dtype=dtype) for name in names]
    run(dict(zip(served, loaded, strict=True)), max_body=int(max_body_mb * 1e6), **settings)


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
