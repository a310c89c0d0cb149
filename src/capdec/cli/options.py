"""What several commands ask for, and what their answers mean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capdec import parts

if TYPE_CHECKING:
    from capdec.protocols import Backbone, Decoding


def choices() -> str:
    return "\n\n".join(f"{kind}: {', '.join(parts.names(kind))}" for kind in parts.KINDS)


def part(kind: str, text: str) -> str | dict[str, Any]:
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


def decoding_options(command: Callable) -> Callable:
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


def decoding_of(default: "Decoding", given: dict[str, Any]) -> "Decoding":
    from dataclasses import fields

    from capdec.generation import changed

    return changed(default, {field.name: given[field.name] for field in fields(default) if given.get(field.name) is not None})


def dataset_options(command: Callable, required: bool = True) -> Callable:
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


def dataset_of(given: dict[str, Any], default: str | dict[str, Any] | None = None) -> dict[str, Any]:
    """The dataset's table that the options of `dataset_options` make, or a recipe's with what they change in it. A setting that its part does not
    take will be an error that shows those it takes; what is partial is the evaluation's matter too: a part that knows nothing of it is not told."""
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


def backbone_of(name: str, device: str) -> "Backbone":
    found: Backbone = parts.build("backbones", part("backbones", name), device=device)
    return found


@contextmanager
def resumable(found: str) -> Iterator[None]:
    """Ctrl-C ends the command with status 130, and with a line that says what is there."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {found}. Run the same command to continue.", err=True)
        raise SystemExit(130) from None
