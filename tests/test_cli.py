import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from capdec import parts
from capdec.cli import main
from conftest import DECODER


@pytest.fixture
def run():
    def invoke(*words: str, **more):
        return CliRunner().invoke(main, [str(word) for word in words], **more)

    return invoke


@pytest.fixture
def captioner_folder(tmp_path, tiny_captioner):
    tiny_captioner.save(tmp_path / "captioner")
    return tmp_path / "captioner"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        Image.new("RGB", (30, 20), (60 * n, 90, 30)).save(folder / f"{n}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return folder


def test_help_lists_every_part_and_does_not_import_torch(run):
    shown = run("train", "--help").output
    assert all(name in shown for kind in parts.KINDS for name in parts.names(kind))
    code = "import sys; from capdec.cli import main; main(['train', '-h'], standalone_mode=False); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_folder_with_a_broken_photo_is_captioned_and_the_exit_status_says_so(run, captioner_folder, photos, tmp_path):
    done = run("caption", photos, "--captioner", captioner_folder, "--output", tmp_path / "out.jsonl", "--write", "txt", "--max-tokens", 6)
    assert done.exit_code == 1 and "3 captioned, 1 failed" in done.output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and sum("error" in line for line in lines) == 1
    assert (photos / "0.txt").is_file() and not (photos / "broken.txt").exists() and not (tmp_path / "out.jsonl.part").exists()


def test_into_a_pipe_go_lines_of_json(run, captioner_folder, photos):
    done = run("caption", photos / "0.jpg", "--captioner", captioner_folder, "--captions", 2, "--max-tokens", 6)
    (line,) = done.stdout.splitlines()
    assert done.exit_code == 0 and set(json.loads(line)) == {"path", "caption", "score", "alternatives"}


def test_paths_come_from_stdin_too(run, captioner_folder, photos):
    done = run("caption", "-", "--captioner", captioner_folder, "--max-tokens", 4, input=f"{photos / '0.jpg'}\n{photos / '1.jpg'}\n")
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == [str(photos / "0.jpg"), str(photos / "1.jpg")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("caption", "x.jpg", "--captioner", "nobody"), "neither embedded"),
        (("train", "--output", "out"), "no captions were named"),
        (("train", "c.txt", "--output", "out", "--set", "decodr.layers=2"), "'decodr'"),
        (("train", "c.txt", "--output", "out", "--backbone", "minni"), "did you mean 'mini'"),
        (("train", "c.txt", "--output", "out", "--set", "training.step=2"), "'step'"),
        (("train", "none.txt", "--output", "out"), "none.txt cannot be read: No such file"),
        (("train", "c.doc", "--output", "out", "--set", "training.steps=2"), "no dataset part recognises"),
        (("evaluate", "--dataset", "COCO", "--annotations", "c.txt"), "'COCO' is no benchmark"),
        (("evaluate", "--dataset", "coco"), "dataset coco needs its file: --annotations. Karpathy's split files are in https://"),
        (("evaluate", "--dataset", "nowhere.json"), "nowhere.json does not exist"),
        (("score", "c.txt", "--references", "nowhere.json"), "nowhere.json does not exist"),
        (("score", "c.txt", "--references", "broken.json"), "is the file whole?"),
        (("sweep", "--output", "out"), "no captions were named"),
        (("sweep", "c.txt", "--output", "out", "--split", "val"), "--split say something of --dataset"),
        (("evaluate", "--split", "test"), "no photos were named"),
        (("evaluate", "--dataset", "c.txt", "--memory-name", "coco"), "--memory-name coco names the text of --memory"),
        (("caption", "x.jpg", "--candidates", "1"), "among several candidates"),
        (("sweep", "c.txt", "--output", "out", "--seeds", "a"), "--seeds takes numbers"),
        (("gap", "--captions", "c.txt", "--picture", "gap.xyz"), "png"),
        (("train", "--recipe", "broken.json", "--output", "out"), "is not TOML"),
        (("pretrain", "--recipe", "none.toml"), "no recipe"),
        (("caption", "x.jpg", "--captions", "9"), "no 9 captions"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_status_2(run, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("c.txt", "c.doc"):
        (tmp_path / name).write_text("a man\n")
    (tmp_path / "broken.json").write_bytes('{"images": "Größe'.encode("latin-1"))
    done = run(*words)
    assert done.exit_code == 2 and said in done.output and done.output.count("\n") <= 2, done.output


def test_a_captioner_is_trained_from_a_text_file_and_used(run, tmp_path, tiny_backbone, photos):
    (tmp_path / "captions.txt").write_text("\n".join(f"a man sees {n} dogs" for n in range(50)))
    done = run(
        "train", tmp_path / "captions.txt", "--output", tmp_path / "mine", "--backbone", tiny_backbone["folder"], "--steps", 4,
        "--set", f"decoder={json.dumps(DECODER)}", "--set", "training.batch=8", "--set", "training.warmup=1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert run("caption", photos / "0.jpg", "--captioner", tmp_path / "mine").exit_code == 0
    assert str(tmp_path / "mine") in run("models", tmp_path).output


def test_demo_writes_a_gallery(run, captioner_folder, tmp_path):
    done = run("demo", "--captioner", captioner_folder, "--output", tmp_path / "demo.html")
    assert done.exit_code == 0, done.output
    assert "astronaut" in done.output and (tmp_path / "demo.html").stat().st_size > 10_000


def test_an_interrupted_run_keeps_what_was_captioned(captioner_folder, tmp_path):
    feed = subprocess.Popen(
        [sys.executable, *f"-m capdec caption - --captioner {captioner_folder} --output {tmp_path}/out.jsonl --batch 1".split()],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background would hand down that it is ignored
    )  # fmt: skip
    assert feed.stdin is not None
    part = tmp_path / "out.jsonl.part"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (part.is_file() and part.read_text().count("\n") > 1):  # shown: all is imported
        feed.stdin.write("/nowhere.jpg\n")
        feed.stdin.flush()
        time.sleep(0.05)
    feed.send_signal(signal.SIGINT)
    feed.stdin.close()
    assert feed.wait(60) == 130
    assert not (tmp_path / "out.jsonl").exists() and json.loads(part.read_text().splitlines()[0])["error"]


@pytest.mark.parametrize(
    ("command", "works", "said"),
    [
        (("caption", "photo.jpg"), "capdec.captioner.Captioner.load", "Interrupted."),
        (("evaluate", "--dataset", "photos.tar", "--output", "out"), "capdec.evaluate.evaluate", "out holds what was done. Run the same command"),
        (("sweep", "captions.txt", "--output", "out"), "capdec.sweep.sweep", "out holds what was done"),
    ],
)
def test_ctrl_c_ends_any_command_with_status_130_and_a_line_that_says_what_is_there(run, monkeypatch, command, works, said):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(works, interrupted)
    done = run(*command)
    assert done.exit_code == 130 and said in done.stderr and "Aborted" not in done.stderr


def test_an_evaluation_is_made_scored_again_and_compared(run, captioner_folder, shard, tmp_path):
    common = ("--dataset", shard["path"], "--name", "tiny", "--metrics", "coco_scores,diversity,clip_score", "--max-tokens", 6)
    done = run("evaluate", captioner_folder, *common, "--output", tmp_path / "one")
    assert done.exit_code == 0, done.output
    assert "CIDEr" in done.output and "backbone trained on this dataset's pairs" in done.output and "the captioner's own backbone" in done.output
    scores = json.loads((tmp_path / "one/scores.json").read_text())
    again = run("score", tmp_path / "one/predictions.jsonl", "--references", shard["path"], "--metrics", "coco_scores", "--json")
    assert json.loads(again.stdout)["figures"]["CIDEr"]["value"] == scores["systems"]["itself"]["CIDEr"]["value"]
    assert run("evaluate", captioner_folder, *common, "--output", tmp_path / "two").exit_code == 0
    compared = run("compare", tmp_path / "one", f"{tmp_path}/t*o", "--json")
    assert json.loads(compared.stdout)["CIDEr"]["difference"] == 0
    assert "first - second" in run("compare", tmp_path / "one", tmp_path / "two").output


def test_scores_of_a_file_are_shown_with_what_was_not_computed(run, tmp_path):
    (tmp_path / "references.jsonl").write_text('{"image_id": 1, "captions": ["a dog runs"]}\n{"image_id": 2, "captions": ["a cat"]}\n')
    (tmp_path / "said.json").write_text('[{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}]')
    done = run("score", tmp_path / "said.json", "--references", tmp_path / "references.jsonl", "--metrics", "coco_scores,spice,diversity")
    assert done.exit_code == 0 and "SPICE: not computed" in done.output and "copied: not computed" in done.output
    missing = run("score", tmp_path / "said.json", "--references", tmp_path / "references.jsonl", "--split", "test", "--images", "nowhere")
    assert missing.exit_code == 2 and "photos are missing" in missing.output


DATA = Path(__file__).parent / "data"


def test_a_backbone_is_told_by_what_is_in_its_folder(tmp_path):
    from capdec.backbones.openai import OpenAI
    from capdec.cli.options import part

    OpenAI.tiny(tmp_path / "clip")
    assert part("backbones", str(tmp_path / "clip")) == {"name": "openai", "model": str(tmp_path / "clip")}
    assert part("backbones", "timm/resnet50x4_clip.openai") == {"name": "openai", "model": "timm/resnet50x4_clip.openai"}
    assert part("backbones", "google/siglip2-base-patch16-224@abc") == {
        "name": "huggingface", "model": "google/siglip2-base-patch16-224", "revision": "abc",
    }  # fmt: skip


def test_a_setting_of_the_default_bridge_can_be_given_without_a_recipe(run, captions_file, tiny_backbone, tmp_path):
    words = [f"backbone={json.dumps(tiny_backbone)}", f"decoder={json.dumps(DECODER)}", "training.steps=2", "training.batch=8"]
    words = [word for one in (*words, "training.held_out=0.2") for word in ("--set", one)]
    done = run("train", captions_file, "--output", tmp_path / "std", *words, "--set", "bridges.0.std=0.1")
    assert done.exit_code == 0 and json.loads((tmp_path / "std/config.json").read_text())["bridges"] == [{"name": "gaussian_noise", "std": 0.1}]
    done = run(
        "sweep", captions_file, "--output", tmp_path / "sweep", *words, "--set", "bridges.0.distribution=uniform", "--over", "training.clip=[1, 2]"
    )
    assert done.exit_code == 0, done.output
    noise = json.loads((tmp_path / "sweep/clip=1,seed=0/config.json").read_text())["bridges"]
    assert noise == [{"name": "gaussian_noise", "target_cosine": 0.5, "distribution": "uniform"}]


def test_a_benchmark_in_groups_is_evaluated_and_scored_group_by_group(run, captioner_folder, tmp_path):
    nocaps = ("--annotations", DATA / "nocaps/nocaps_val_4500_captions.json", "--partial", "--metrics", "coco_scores")
    done = run("evaluate", captioner_folder, "--dataset", "nocaps", *nocaps, "--images", DATA / "nocaps", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "itself, near-domain (1)" in done.output and "4497 of the split left out" in done.output
    scored = run("score", tmp_path / "out/predictions.jsonl", "--references", "nocaps", *nocaps, "--json")
    found, evaluated = json.loads(scored.stdout), json.loads((tmp_path / "out/scores.json").read_text())
    assert found["groups"]["in-domain"] == evaluated["groups"]["in-domain"] and found["left_out"] == evaluated["left_out"] == 4497


def test_a_training_split_is_scored_only_where_it_is_named(run, captioner_folder, tmp_path):
    file = ("--images", DATA / "coco", "--metrics", "coco_scores", "--output", tmp_path / "out", "--dataset", DATA / "coco/dataset_coco.json")
    done = run("evaluate", captioner_folder, *file)
    assert done.exit_code == 2 and "which split is to be scored" in done.output
    assert run("evaluate", captioner_folder, *file, "--split", "train").exit_code == 0
    assert "which split" in run("score", "none.json", "--references", DATA / "coco/dataset_coco.json").output


def test_a_style_is_chosen_on_the_command_line(run, captioner_folder, tmp_path):
    words = ("--dataset", "flickr_style", "--annotations", DATA / "flickr_style", "--images", DATA / "flickr_style", "--partial")
    for style in ("romantic", "humorous"):
        done = run("evaluate", captioner_folder, *words, "--dataset-style", style, "--metrics", "coco_scores", "--output", tmp_path / style)
        assert done.exit_code == 0, done.output
    opened = json.loads((tmp_path / "humorous/manifest.json").read_text())["dataset"]["opened"]
    assert opened["style"] == "humorous"


def test_a_recipe_says_what_is_evaluated(run, captioner_folder, shard, tmp_path):
    (tmp_path / "memory.txt").write_text("a man\na dog\n")
    lines = [f"dataset = {json.dumps(shard['path'])}", f"memory = {json.dumps(str(tmp_path / 'memory.txt'))}", 'metrics = ["coco_scores"]']
    (tmp_path / "r.toml").write_text("\n".join(["[evaluation]", *lines]))
    done = run("evaluate", captioner_folder, "--recipe", tmp_path / "r.toml", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/manifest.json").read_text())["memory"]["captions"] == 2


def test_a_gap_is_measured_and_noise_is_swept(run, captions_file, tiny_backbone, shard, tmp_path):
    done = run("gap", "--backbone", tiny_backbone["folder"], "--captions", captions_file, "--output", tmp_path / "gap")
    assert done.exit_code == 0, done.output
    assert "From text alone: begin at target_cosine" in done.output and (tmp_path / "gap/gap.svg").is_file()
    sets = (
        f"backbone={json.dumps(tiny_backbone)}",
        f"decoder={json.dumps(DECODER)}",
        "training.steps=2",
        "training.batch=8",
        "training.held_out=0.2",
    )
    words = [word for one in sets for word in ("--set", one)]
    done = run("sweep", captions_file, "--output", tmp_path / "sweep", *words, "--over", "bridges.0.target_cosine=[0.9, 0.5]", "--seeds", "0,1")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "sweep/best.toml").is_file() and "target_cosine = 0.5" in done.output
    assert run("sweep", captions_file, "--output", tmp_path / "no", "--over", "bridges.0.std=0.1").exit_code == 2
    (tmp_path / "r.toml").write_text('[decoding]\nbeams = 2\n[evaluation]\ndataset = "test.tar"\n')
    dataset = ("--dataset", shard["path"], "--no-repeat-ngram-size", "3")
    done = run(
        "sweep", captions_file, "--output", tmp_path / "std", "--recipe", tmp_path / "r.toml", *words, "--over", "bridges.0.std=[0.05, 0.1]", *dataset
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "std/std=0.1,seed=0/evaluation/manifest.json").read_text())
    assert manifest["decoding"]["no_repeat_ngram_size"] == 3 and manifest["decoding"]["beams"] == 2
    assert manifest["captioner"]["bridges"] == [{"name": "gaussian_noise", "std": 0.1}]


def test_styles_are_added_to_the_captions_of_a_recipe(run, captions_file, tiny_backbone, tmp_path):
    from capdec.recipe import dump

    (tmp_path / "loud.jsonl").write_text('{"image_id": "photo-1", "captions": ["wow , a man !"]}\n')
    table = {"captions": {"path": str(captions_file), "dataset": "tiny"}, "backbone": tiny_backbone, "decoder": DECODER}
    (tmp_path / "r.toml").write_text(dump({**table, "training": {"steps": 1, "batch": 8, "held_out": 0.2}}))
    words = ["--set", "bridges.0.std=0.1", "--style", f"loud={tmp_path / 'loud.jsonl'}"]
    done = run("train", "--recipe", tmp_path / "r.toml", *words, "--output", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run/config.json").read_text())["styles"] == ["", "loud"]


def test_a_sweep_that_begins_with_a_captioner_has_its_bridges_and_decoding(run, captions_file, captioner_folder, tmp_path):
    from capdec.recipe import dump

    config = json.loads((captioner_folder / "config.json").read_text())
    config["bridges"], config["decoding"]["beams"] = [{"name": "gaussian_noise", "std": 0.3, "distribution": "uniform"}], 2
    (captioner_folder / "config.json").write_text(json.dumps(config))
    table = {"captions": str(captions_file), "start": str(captioner_folder), "training": {"steps": 1, "batch": 8, "held_out": 0.2}}
    (tmp_path / "r.toml").write_text(dump(table))
    done = run("sweep", "--recipe", tmp_path / "r.toml", "--over", "bridges.0.target_cosine=[0.5]", "--output", tmp_path / "sweep")
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "sweep/target_cosine=0.5,seed=0/config.json").read_text())
    assert made["bridges"] == [{"name": "gaussian_noise", "distribution": "uniform", "target_cosine": 0.5}] and made["decoding"]["beams"] == 2
