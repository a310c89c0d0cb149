"""The table and the page say what the evaluations say, hold everything they show, and are safe whatever captions, ids and folders are called."""

import base64
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from capdec.cli import main
from capdec.errors import DataError, SettingError
from capdec.evaluate import evaluate
from capdec.protocols import Decoding
from capdec.report import report
from test_gallery import HOSTILE, Page

FAST = {"decoding": Decoding(max_tokens=6), "metrics": ("coco_scores", "spice", "unseen_nouns", "diversity", "clip_score"), "resamples": 20}


@pytest.fixture
def evaluation(tmp_path, tiny_captioner, shard):
    evaluate(tiny_captioner, shard, tmp_path / "tiny", baselines=("shuffled", "person"), **FAST)
    return tmp_path / "tiny"


def copy_of(evaluation, name, change=None):
    """Another evaluation; `change` is given each row of its predictions."""
    folder = evaluation.parent / name
    shutil.copytree(evaluation, folder)
    if change:
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for place, row in enumerate(rows):
            change(place, row)
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def scored(place, row):
    row["figures"]["CIDEr"] = (30.0, 10.0, 60.0, 0.0, 50.0, 20.0)[place]


def report_of(tmp_path, *folders, **settings):
    reasons = report(folders, tmp_path / "report", **settings)
    return (tmp_path / "report/report.md").read_text(), Page(tmp_path / "report/report.html"), reasons


def cells(table, name):
    """Of the first line of a Markdown table that has the cell `name`."""
    return next(line for line in ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()) if name in line)


def cards(page):
    """(id, caption) in the page's order."""
    captions = re.findall(r'<p class="caption" dir="auto">(.*?)</p>', page.source)
    return [*zip(re.findall(r'<p class="source"><bdi>(.*?)</bdi>', page.source), captions, strict=True)]


def test_the_table_gives_each_systems_figures_with_intervals_and_supervision(tmp_path, evaluation):
    table, page, reasons = report_of(tmp_path, evaluation)
    scores = json.loads((evaluation / "scores.json").read_text())
    heads = cells(table, "system")
    for system in ("itself", "shuffled", "person"):
        found = dict(zip(heads, cells(table, system), strict=True))
        cider = scores["systems"][system]["CIDEr"]
        assert found["CIDEr"] == f"{cider['value']:.1f} [{cider['low']:.1f}, {cider['high']:.1f}]"
        assert found["n"] == "6" and found["supervision"] == scores["supervision"][system]
    assert page.says("text + backbone trained on this dataset's pairs") and reasons == []
    assert "SPICE" not in heads and "SPICE: not computed: " in table, "what nothing has is no column, and the reason is told"
    for fact in ("| photos | 6 |", "| bridges | gaussian\\_noise (std 0.1) |", "| split | val |", "resamples 20", scores["supervision"]["itself"]):
        assert fact in table
    assert str(tmp_path) not in table + page.source, "a report is shown around: of files it has the names"


def test_what_the_captioners_own_backbone_says_is_starred(tmp_path, evaluation):
    table, page, _ = report_of(tmp_path, evaluation)
    heads = cells(table, "system")
    assert r"\*" in dict(zip(heads, cells(table, "itself"), strict=True))["CLIPScore"]
    assert r"\*" not in dict(zip(heads, cells(table, "person"), strict=True))["CLIPScore"]
    assert r"\* CLIPScore, RefCLIPScore, R@1: by " in table and page.says("* CLIPScore, RefCLIPScore, R@1: by ")


def test_what_one_evaluation_lacks_is_a_dash_there(tmp_path, evaluation):
    other = copy_of(evaluation, "other")
    change_json(other / "scores.json", lambda scores: scores["systems"]["itself"]["CIDEr"].update(value=None, note="not computed: it was late"))
    change_json(other / "scores.json", lambda scores: [figures.pop("length") for figures in scores["systems"].values()])
    table, page, _ = report_of(tmp_path, evaluation, other)
    assert cells(table, "other")[cells(table, "system").index("CIDEr")].startswith("-")
    assert "CIDEr of itself: not computed: it was late" in table and page.says("CIDEr of itself: not computed: it was late")
    assert "- length of other: not asked for" in table


def test_the_best_stand_first_and_the_worst_after_them_each_once(tmp_path, evaluation):
    _, page, _ = report_of(tmp_path, copy_of(evaluation, "scored", scored))
    assert [key for key, _ in cards(page)] == ["p2", "p4", "p0", "p3", "p1", "p5"]
    assert page.source.index("Best by CIDEr") < page.source.index(">p2<") < page.source.index("Worst by CIDEr") < page.source.index(">p3<")
    assert page.says("All 6 photos are shown.") and len(page.all("img")) == len(page.all("figure")) == 6
    for words in ("a man 2", "two dogs", "Written by people", "60.0", "Other systems, with CIDEr"):
        assert page.says(words), words


@pytest.mark.parametrize(("photos", "shown"), [(3, ["p2", "p4", "p3"]), (1, ["p2"]), (0, [])])
def test_only_so_many_photos_are_embedded_and_the_page_says_of_how_many(tmp_path, evaluation, photos, shown):
    _, page, _ = report_of(tmp_path, copy_of(evaluation, "scored", scored), photos=photos)
    assert [key for key, _ in cards(page)] == shown
    assert page.says(f"{photos} of the 6 photos are shown: the {(photos + 1) // 2} best and the {photos // 2} worst by CIDEr.")


def test_another_figure_can_say_which_are_best_and_fewer_unseen_nouns_are_better(tmp_path, evaluation):
    unseen = copy_of(evaluation, "unseen", lambda place, row: row["figures"].update({"unseen nouns": 10.0 * place, "length": float(place)}))
    assert [key for key, _ in cards(report_of(tmp_path, unseen, by="unseen nouns", photos=2)[1])] == ["p0", "p5"]
    _, page, _ = report_of(tmp_path, unseen, by="length", photos=2)
    assert [key for key, _ in cards(page)] == ["p5", "p0"] and page.says("Highest by length"), "long is not good"
    with pytest.raises(SettingError, match=r"have no figure BLUE\. They have: .*CIDEr"):
        report([unseen], tmp_path / "no", by="BLUE")
    assert not (tmp_path / "no").exists()


def test_several_evaluations_stand_side_by_side(tmp_path, evaluation):
    other = copy_of(evaluation, "other", lambda place, row: row.update(caption=f"a second opinion {place}"))
    table, page, _ = report_of(tmp_path, evaluation, other)
    assert table.count("\n| tiny | ") == table.count("\n| other | ") == 3
    assert page.says("a second opinion 3") and page.says("other minus tiny") and len(page.all("figure")) == 6
    assert len(re.findall('<dl class="figures">', page.source)) == 12


def test_evaluations_of_other_references_have_a_table_of_their_own_and_a_warning(tmp_path, evaluation):
    other = copy_of(evaluation, "other", lambda place, row: row["references"].append("a third"))
    table, page, reasons = report_of(tmp_path, evaluation, other)
    warning = "These evaluations are of 2 different sets of images and references: the figures of one set do not compare with those of another."
    assert warning in table and page.says(warning)
    assert len([line for line in table.splitlines() if line.startswith("| evaluation |")]) == 2 == len(page.all("section"))
    assert len(reasons) == 1 and len(page.all("img")) == 6, "photos beside other references are not taken for those that were scored"


def test_a_part_of_a_split_is_said_to_be_one(tmp_path, evaluation):
    change_json(evaluation / "manifest.json", lambda manifest: manifest["dataset"].update(left_out=7))
    table, page, _ = report_of(tmp_path, evaluation)
    words = "of tiny, 7 photos of the split were left out, so its figures do not compare with those of the whole"
    assert words in table and page.says(words)


def test_the_command_names_what_it_wrote_and_what_is_missing(tmp_path, evaluation):
    def run():
        return CliRunner().invoke(main, ["report", str(evaluation), "--output", str(tmp_path / "report"), "--photos", "2"])

    done = run()
    assert done.exit_code == 0 and str(tmp_path / "report/report.html") in done.stdout and not done.stderr, done.output
    (tmp_path / "photos.tar").unlink()
    done = run()
    assert done.exit_code == 0 and "Some pictures are missing" in done.stderr and (tmp_path / "report/report.md").is_file()
    manifest = json.loads((evaluation / "manifest.json").read_text())
    manifest["dataset"]["opened"]["path"] = "photos.tar"
    (evaluation / "manifest.json").write_text(json.dumps(manifest))
    assert "make the report there" in run().stderr


def test_folders_of_one_name_are_told_apart(tmp_path, evaluation):
    runs = [copy_of(evaluation, f"runs/{name}") for name in ("a/evaluation", "b/evaluation", "b/tiny")]
    table, _, _ = report_of(tmp_path, *runs, evaluation, evaluation)
    names = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if " | itself | " in line]
    assert names == ["a/evaluation", "b/evaluation", "b/tiny", f"{tmp_path.name}/tiny".replace("_", r"\_")]


def test_groups_have_rows_of_their_own(tmp_path, evaluation):
    change_json(evaluation / "scores.json", lambda scores: scores.update(groups={"near-domain": {"n": 2, **scores["systems"]["itself"]}}))
    assert cells(report_of(tmp_path, evaluation)[0], "itself, near-domain")[3] == "2"


def test_a_metric_of_ones_own_is_a_column_too(tmp_path, evaluation):
    change_json(evaluation / "scores.json", lambda scores: scores["systems"]["itself"].update(wit={"value": 3.0}))
    assert cells(report_of(tmp_path, evaluation)[0], "system")[-1] == "wit"


@pytest.mark.parametrize(
    ("opened", "why"),
    [
        ("moved.tar", "moved.tar"),
        (None, "does not say which dataset"),
        ({"name": "unknown"}, "no dataset is called 'unknown'"),
        ({"path": "photos.tar", "colour": "red"}, "'colour'"),
    ],
)
def test_where_the_dataset_is_gone_the_cards_have_no_picture_and_the_page_says_why(tmp_path, evaluation, opened, why):
    change_json(evaluation / "manifest.json", lambda manifest: manifest["dataset"].update(opened=opened))
    _, page, (reason,) = report_of(tmp_path, evaluation)
    assert why in reason and page.says(reason) and not page.all("img")
    assert len(page.all("figure")) == 6 and page.source.count(">no picture<") == 6


def test_a_photo_that_cannot_be_opened_any_more_is_one_line_on_its_card(tmp_path, evaluation, tiny_captioner):
    rows = [{"id": n, "file_name": f"{n}.png"} for n in range(3)]
    for row in rows:
        Image.fromarray(np.full((8, 8, 3), 80 * row["id"], np.uint8)).save(tmp_path / row["file_name"])
    captions = [{"image_id": n, "caption": f"wall {n}"} for n in range(3)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": rows, "annotations": captions}))
    spec = {"path": str(tmp_path / "coco.json"), "images": str(tmp_path)}
    evaluate(tiny_captioner, spec, tmp_path / "walls", baselines=(), **FAST)
    (tmp_path / "1.png").write_bytes(b"")
    _, page, (reason,) = report_of(tmp_path, tmp_path / "walls")
    assert "1.png is empty" in reason and page.says(reason) and len(page.all("img")) == 2


def test_code_from_a_manifest_runs_only_if_it_is_allowed(tmp_path, evaluation):
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom capdec.datasets.webdataset import WebDataset as Own\n")
    part = {"name": f"{tmp_path / 'own.py'}:Own"}
    change_json(evaluation / "manifest.json", lambda manifest: manifest["dataset"].update(opened={**manifest["dataset"]["opened"], **part}))
    assert "--own-parts" in report_of(tmp_path, evaluation)[2][0] and not (tmp_path / "ran").exists()
    _, page, reasons = report_of(tmp_path, evaluation, own_parts=True)
    assert reasons == [] and (tmp_path / "ran").exists() and len(page.all("img")) == 6


def test_hostile_captions_references_ids_figures_and_folders_stay_text(tmp_path, evaluation):
    def hostile(place, row):
        row.update(image_id=f"{HOSTILE}{place}", caption=HOSTILE, references=[HOSTILE, "```| [x](y) *"], group=HOSTILE)
        row["figures"] |= {HOSTILE: 1.0}
        row["others"] |= {HOSTILE: {"caption": HOSTILE, "figures": {}}}

    folder = copy_of(evaluation, "a|b *c* `d` [e](f) <i> & $x$", hostile)
    change_json(folder / "scores.json", lambda scores: scores["supervision"].update(itself=HOSTILE))
    change_json(folder / "scores.json", lambda scores: scores["systems"]["itself"].update({HOSTILE: {"value": 1.0, "note": HOSTILE}}))
    change_json(folder / "manifest.json", lambda manifest: manifest["dataset"].update(name=HOSTILE, opened=None))
    table, page, _ = report_of(tmp_path, folder, evaluation)
    assert len(page.all("script")) == 1 and len(page.all("figure")) == 12
    assert {name for _, attributes in page.tags for name in attributes if name.startswith("on")} == set()
    assert page.says(HOSTILE) and page.says("a|b *c* `d` [e](f) <i> & $x$")
    assert r"a\|b \*c\* \`d\` \[e\](f) \<i\> \& \$x\$" in table and "<script" not in table.replace(r"\<script", "")
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines() if " itself " in line}
    assert len(widths) == 2, "no line has more cells than its table"


def test_the_page_runs_its_own_script_and_nothing_else_and_loads_nothing(tmp_path, evaluation):
    _, page, _ = report_of(tmp_path, evaluation)
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    assert "://" not in page.source and "@import" not in page.source and "url(" not in page.source and not page.all("form")
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert all(image["alt"].startswith("a man") for image in page.all("img")), "a person's words stand for the photo"


def test_without_the_script_nothing_is_promised_that_needs_it(tmp_path, evaluation):
    _, page, _ = report_of(tmp_path, evaluation)
    controls = next(attributes for tag, attributes in page.tags if attributes.get("class") == "sorting")
    assert "hidden" in controls
    options = {one.get("data-better") for one in page.all("option")}
    assert options == {"higher", "lower", "neither"}


def test_a_folder_that_is_no_evaluation_or_a_damaged_one_is_refused_and_an_older_report_stays(tmp_path, evaluation):
    report_of(tmp_path, evaluation)
    old = (tmp_path / "report/report.html").read_bytes()
    with pytest.raises(DataError, match=r"holds no evaluation: it has no predictions\.jsonl"):
        report_of(tmp_path, evaluation, tmp_path)
    for name, content, said in (
        ("scores.json", "{", "damaged"),
        ("scores.json", '{"n": 6}', "damaged"),
        ("manifest.json", None, "half an evaluation"),
        ("predictions.jsonl", '{"image_id": "p0"', "damaged"),
        ("predictions.jsonl", '{"image_id": 1, "caption": "", "references": [], "figures": {}}', "no text among its texts"),
        ("predictions.jsonl", "", "no rows"),
    ):
        broken = copy_of(evaluation, f"broken-{said}-{name}-{content is None or len(content)}")
        (broken / name).unlink() if content is None else (broken / name).write_text(content)
        with pytest.raises(DataError, match=said):
            report_of(tmp_path, evaluation, broken)
    assert (tmp_path / "report/report.html").read_bytes() == old and len([*(tmp_path / "report").iterdir()]) == 2
    with pytest.raises(SettingError, match="name the folders"):
        report([], tmp_path / "none")
