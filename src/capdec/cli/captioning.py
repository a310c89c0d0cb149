"""Commands that caption: `caption`, `bulk`, `demo`, `serve`; and `models`, what there is to caption with."""

import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capdec.cli.options import captioner_option, decoding_of, decoding_options, device_option, dtype_option, own_parts_option, resumable

if TYPE_CHECKING:
    from capdec.caption import Record


@click.command()
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
@decoding_options
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
    calibrated, how many moments of a video were looked at, alternatives if asked for). The exit status is 1 if any failed; the others are captioned
    all the same.
    """
    from capdec.caption import caption_files, write_records
    from capdec.captioner import Captioner
    from capdec.images import SUFFIXES, find_images
    from capdec.video import SUFFIXES as VIDEOS

    loaded = Captioner.load(captioner, device, own_parts=own_parts, dtype=dtype)
    if sure and min_confidence is None:
        min_confidence = loaded.confidence.threshold if loaded.confidence else 1.0
    found, asked = find_images(paths, SUFFIXES + VIDEOS), decoding_of(loaded.decoding, decoding)
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
        kept = f"; their captions are in {part}, until the same command begins again. What is to go on: capdec bulk" if part else ""
        click.echo(f"\nInterrupted after {done} photos{kept}.", err=True)
        raise SystemExit(130) from None
    if stream and part and output:
        stream.close()
        part.replace(output)
    if on_terminal or failed:
        unsaid = f", {withheld} unsure" if min_confidence is not None else ""
        click.echo(f"{done - failed - withheld} captioned{unsaid}, {failed} failed" + (f", written to {output}" if output else ""), err=True)
    raise SystemExit(1 if failed else 0)


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


@click.command()
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
@decoding_options
def bulk(inputs: tuple[str, ...], output: str, captioner: str, own_parts: bool, max_errors: int | None, **given: Any) -> None:
    """Caption a million photos, or stored embeddings: folders, patterns or files, local or on s3://, gs://, hf:// ...

    INPUT holds photos, WebDataset's .tar shards, Parquet with photos, paths or embeddings, or embeddings alone (.npy, .safetensors; clip-retrieval's
    folder). DIR gets captions/*.parquet: key, caption, score, alternatives, confidence, unsure, error. Killed at any moment and started again, it
    goes on, and each row comes once. The exit status is 1 if any row failed.
    """
    from capdec.bulk import bulk as run
    from capdec.captioner import Captioner

    own = {key: given.pop(key) for key in ("column", "key", "rows", "batch", "address", "workers", "threads", "device", "dtype")}
    decoding = decoding_of(Captioner.load(captioner, own_parts=own_parts).decoding, given)
    with resumable(f"{output} holds what is finished"):
        summary = run(inputs, output, captioner, decoding, max_errors=max_errors, own_parts=own_parts, **own)
    for failed in summary["first_errors"]:
        click.echo(f"failed: {failed['key']}: {failed['error']}", err=True)
    more = f"; {output}/errors.jsonl has them all" if summary["errors"] > len(summary["first_errors"]) else ""
    click.echo(f"{summary['captioned']:,} captioned, {summary['errors']:,} failed{more}, written to {output}/captions", err=True)
    raise SystemExit(1 if summary["errors"] else 0)


@click.command()
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


@click.command()
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


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
def models(folder: Path) -> None:
    """List the models that travel in the package and the captioners in FOLDER and its folders."""
    from capdec.captioner import licence, listing

    for name, what, size in listing(folder):
        click.echo(f"{name:<24} {size / 1e6:6.1f} MB   {what}")
    click.echo(f"\nThe embedded weights have terms of their own:\n\n{licence()}")


COMMANDS = (caption, bulk, demo, serve, models)
