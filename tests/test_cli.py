import json
import os
import signal
import subprocess
import sys
import time

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
        (("train", "c.doc", "--output", "out", "--set", "training.steps=2"), "no dataset part recognises"),
        (("pretrain", "--recipe", "none.toml"), "no recipe"),
        (("caption", "x.jpg", "--captions", "9"), "no 9 captions"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_status_2(run, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("a man\n")
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
    while time.monotonic() < deadline and not (part.is_file() and part.read_text().count("\n")):
        feed.stdin.write("/nowhere.jpg\n")
        feed.stdin.flush()
        time.sleep(0.05)
    feed.send_signal(signal.SIGINT)
    feed.stdin.close()
    assert feed.wait(60) == 130
    assert not (tmp_path / "out.jsonl").exists() and json.loads(part.read_text().splitlines()[0])["error"]


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


def test_a_gap_is_measured_and_noise_is_swept(run, captions_file, tiny_backbone, tmp_path):
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
