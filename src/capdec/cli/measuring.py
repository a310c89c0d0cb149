"""Commands that measure: `evaluate`, `score`, `compare`, `report`, `calibrate`, `coverage`, `gap`."""

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
    resumable,
)  # fmt: skip


@click.command(epilog=choices())
@click.argument("captioner", default="flickr")
@partial(dataset_options, required=False)
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
@decoding_options
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
    dataset = dataset_of(given, asked.get("dataset"))
    if not dataset:
        raise SettingError("no photos were named. Give --dataset: captioned photos, or a benchmark's name with --annotations and --images.")
    loaded = Captioner.load(captioner, device, own_parts=own_parts)
    if memory_name and not memory:
        raise SettingError(f"--memory-name {memory_name} names the text of --memory, and none was given.")
    embedded = memory_sources or asked.get("memory_sources")
    text = {"path": memory, **({"dataset": memory_name} if memory_name else {})} if memory else asked.get("memory")
    chosen = metrics.split(",") if metrics else asked.get("metrics", scoring.METRICS)
    decoding = decoding_of(loaded.decoding, given)
    with resumable(f"{output} holds what was done"):
        scores = run(
            loaded, dataset, output, memory=text, memory_sources=embedded, judge=backbone_of(judge, device) if judge else None, metrics=chosen,
            decoding=decoding, partial=given["partial"], language=language,
        )  # fmt: skip
    _figures({**scores["systems"], **_of_groups("itself", scores["groups"])}, _of_how_many(scores, "photos"))
    for system, words in scores["supervision"].items():
        click.echo(f"{system:<10} was given: {words}")
    click.echo(f"\nWritten to {output}. A page to look at: capdec report {output}")


@click.command()
@click.argument("captioner")
@partial(dataset_options, required=True)
@click.option("--precision", type=float, default=0.5, show_default=True, help="Unsure is what is below the captions that are right this often.")
@click.option("--coverage", type=float, help="Instead: the share of captions that are not unsure.")
@click.option("--draws", type=int, default=0, show_default=True, help="Further captions of each photo, ever after, to see whether they agree: dear.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The file.  [default: confidence.json in the captioner's folder]")
@own_parts_option
@device_option
@decoding_options
def calibrate(
    captioner: str, precision: float, coverage: float | None, draws: int, output: Path | None, own_parts: bool, device: str, **given: Any
) -> None:
    """Teach CAPTIONER, a folder, how sure to be of its captions, on captioned photos that neither it nor its backbone learned from.

    From then on its captions say with which probability everything they name is there, and which are unsure: for the decoding that it was calibrated
    for alone.
    """
    from capdec.calibrate import calibrate as run
    from capdec.captioner import Captioner, embedded
    from capdec.confidence import FILE
    from capdec.errors import SettingError

    if output is None and (captioner in embedded() or not Path(captioner).is_dir()):
        raise SettingError(
            f"{captioner} is no folder of your own to write {FILE} into. Say where with --output, or calibrate a copy in a folder of your own."
        )
    loaded = Captioner.load(captioner, device, own_parts=own_parts)
    file = output or Path(captioner) / FILE
    asked = {"precision": precision, "coverage": coverage, "draws": draws, "partial": given["partial"]}
    made = run(loaded, dataset_of(given), file, decoding=decoding_of(loaded.decoding, given), **asked)
    record = made.record
    worth, n = record["cross_validated"], record["dataset"]["n"]
    left_out = f", {record['dataset']['left_out']} left out" if record["dataset"]["left_out"] else ""
    click.echo(f"{n} captions{left_out}, {record['share_right']:.0%} right: each {record['right']}\n\nsignal      alone (AUROC)   weight")
    for name, one in made.signals.items():
        click.echo(f"{name:<12}{record['auroc_alone'][name]:13.3f}   {one.weight:+6.2f}")
    click.echo(f"{'together':<12}{worth['auroc']:13.3f}   cross-validated, as is all below")
    click.echo(f"\nBrier {worth['brier']:.3f} (the share right alone: {worth['brier_of_share_right']:.3f})   error {worth['calibration_error']:.3f}")
    these = f", and {worth['precision']:.0%} of these are right" if worth["precision"] is not None else ""
    click.echo(f"unsure below {made.threshold:.3f}: {worth['coverage']:.0%} of captions are not{these}")
    click.echo(f"\nWritten to {file}")


@click.command()
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
        if name != "bins" and one["value"] is not None:
            spread = f" [{one['low']:.3f}, {one['high']:.3f}]" if "low" in one else ""
            console.print(f"{name:<28}{one['value']:.3f}{spread}", highlight=False, markup=False)
    said = f", {found['sure']['right']:.1%} of them right" if found["sure"]["right"] is not None else ""
    click.echo(f"not unsure: {found['sure']['coverage']:.1%} of captions{said}; of all captions {found['right']:.1%} are right")
    click.echo(f"\nWritten to {folder}: coverage.json, {picture}")


@click.command(epilog=choices())
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

    dataset = scoring.open_references(dataset_of({**given, "dataset": references, "name": None}))
    chosen = tuple(metrics.split(",")) if metrics else scoring.METRICS
    by = backbone_of(judge, device) if judge else None
    found = run(predictions, dataset, metrics=chosen, judge=by, partial=given["partial"], language=language)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    name = Path(predictions).name
    _figures({name: found["figures"], **_of_groups(name, found["groups"])}, _of_how_many(found, "images"))


@click.command()
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


@click.command()
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


@click.command(epilog=choices())
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

    found = run(backbone_of(backbone, device), captions, output, photos, most=most, picture=picture)
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


def _of_groups(system: str, groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{system}, {name} ({found['n']})": {key: one for key, one in found.items() if key != "n"} for name, found in groups.items()}


def _of_how_many(scores: dict[str, Any], what: str) -> str:
    left_out = f", {scores['left_out']} of the split left out: its figures do not compare with those of the whole" if scores["left_out"] else ""
    return f"{scores['n']} {what}{left_out}"


COMMANDS = (evaluate, score, compare, report, calibrate, coverage, gap)
