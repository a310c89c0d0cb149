"""Are clips told as well as the photos they were made of? On captioned photos.

    python benchmarks/video.py DATASET FOLDER [CAPTIONER]

Each photo becomes two clips of four seconds, written to FOLDER with noise and at a poor rate of H.264, the camera moving and zooming over it:

    clips/    by turns: the photo alone (moving); black for a third of the time (black); another photo that fades in and out for a third (visited)
    halves/   another photo for the second half

Prints, of each pooling and number of frames, CIDEr with its interval, its paired difference from the photos' own captions, how many captions are the
photo's own word for word, and the seconds it took; and of the halves, which of the two photos is told. FOLDER gets the captions too, a line
a clip.
"""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageChops

from capdec import Captioner
from capdec.bootstrap import difference, intervals
from capdec.caption import caption_files
from capdec.cider import cider
from capdec.corpus import open_dataset
from capdec.metrics.coco_scores import CocoScores
from capdec.protocols import Predictions, Score
from capdec.ptb import tokenize

KINDS = ("moving", "black", "visited")
FRAMES, RATE, SIDE = 32, 8, 160
WAYS = (("mean", 1), ("mean", 4), ("mean", 8), ("mean", 16), ("projected", 8))


def moving(photo: Image.Image, draw: random.Random) -> Iterator[Image.Image]:
    """From one window of the photo to another, each 60 to 100 % of it wide."""
    ends = []
    for _ in range(2):
        side = draw.uniform(0.6, 1.0)
        ends.append((draw.uniform(0, 1 - side), draw.uniform(0, 1 - side), side))
    for number in range(FRAMES):
        along = number / (FRAMES - 1)
        left, top, side = (start + along * (end - start) for start, end in zip(*ends, strict=True))
        box = (left * photo.width, top * photo.height, (left + side) * photo.width, (top + side) * photo.height)
        yield photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)


def shares(kind: str, draw: random.Random) -> list[float]:
    """How much of each frame is something else."""
    if kind == "moving":
        return [0.0] * FRAMES
    if kind == "half":
        return [0.0] * (FRAMES // 2) + [1.0] * (FRAMES // 2)
    start, long = draw.randrange(FRAMES - FRAMES // 3 + 1), FRAMES // 3
    inside = [min(number - start + 1, start + long - number) for number in range(FRAMES)]
    return [0.0 if depth <= 0 else 1.0 if kind == "black" else min(1.0, depth / 4) for depth in inside]


def write(path: Path, kind: str, photo: Image.Image, other: Image.Image, seed: int) -> None:
    draw, grain = random.Random(seed), np.random.default_rng(seed).normal(128, 8, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    second = Image.new("RGB", photo.size) if kind == "black" else other
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "36", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for share, one, two in zip(shares(kind, draw), moving(photo, draw), moving(second, draw), strict=True):
            noise = Image.fromarray(np.roll(grain, (draw.randrange(SIDE), draw.randrange(SIDE)), (0, 1)))
            image = ImageChops.add(Image.blend(one, two, share), noise, offset=-128)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def main(dataset: str, folder: Path, name: str = "flickr") -> None:
    examples = [one for one in open_dataset(dataset) if one.open_image is not None]
    photos = [one.open_image() for one in examples if one.open_image is not None]
    references = [one.captions for one in examples]
    others = [*range(1, len(photos)), 0]
    kinds = [KINDS[place % len(KINDS)] for place in range(len(photos))]
    paths: dict[str, list[str]] = {}
    for what in ("clips", "halves"):
        (folder / what).mkdir(parents=True, exist_ok=True)
        paths[what] = [str(folder / what / f"{place:04}.mp4") for place in range(len(photos))]
        for place, path in enumerate(paths[what]):
            if not Path(path).is_file():
                write(Path(path), kinds[place] if what == "clips" else "half", photos[place], photos[others[place]], place)
    captioner = Captioner.load(name)

    def told(what: str, frames: int, pooling: str) -> tuple[list[str], float]:
        started = time.perf_counter()
        records = list(caption_files(captioner, paths[what], frames=frames, pooling=pooling))
        return [record.caption.text if record.caption else "" for record in records], time.perf_counter() - started

    def figure(captions: list[str], places: list[int]) -> Score:
        said = {str(place): captions[place] for place in places}
        return CocoScores().score(Predictions(said, {str(place): references[place] for place in places}))["CIDEr"]

    def line(what: str, score: Score, rest: str = "") -> None:
        (sure,) = intervals([score])
        print(f"{what:<28} CIDEr {score.value:5.1f} [{sure.low:.1f}, {sure.high:.1f}]{rest}", flush=True)

    started = time.perf_counter()
    stills = [caption.text for caption in captioner.caption(photos)]
    cost = time.perf_counter() - started
    groups = {"all": list(range(len(photos)))} | {kind: [place for place, one in enumerate(kinds) if one == kind] for kind in KINDS}
    print(f"{len(photos):,} photos, {name}; {cost:.0f} s for the photos, which were open already")
    for group, places in groups.items():
        line(f"photos, {group}", figure(stills, places))
    for pooling, frames in WAYS:
        captions, cost = told("clips", frames, pooling)
        for group, places in groups.items():
            score, still = figure(captions, places), figure(stills, places)
            apart, same = difference([score], [still]), np.mean([captions[place] == stills[place] for place in places])
            rest = f", {apart.value:+.1f} [{apart.low:+.1f}, {apart.high:+.1f}], {same:.0%} the same" + (f", {cost:.0f} s" if group == "all" else "")
            line(f"{pooling} {frames}, {group}", score, rest)
        (folder / f"{pooling}-{frames}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")

    said = [[tokenize(caption) for caption in captions] for captions in references]
    for pooling, frames in (one for one in WAYS if one[1] == 8):
        captions, _ = told("halves", frames, pooling)
        tokens = [tokenize(caption) for caption in captions]
        first, second = 100 * cider(tokens, said), 100 * cider(tokens, [said[place] for place in others])
        for which, score, than, whose in (("first", first, second, range(len(photos))), ("second", second, first, others)):
            same = np.mean([caption == stills[place] for caption, place in zip(captions, whose, strict=True)])
            rest = f", higher than the other's in {np.mean(score > than):.0%}, its photo's own caption in {same:.0%}"
            line(f"halves, {pooling} {frames}, {which}", Score.mean_of(score), rest)
        (folder / f"halves-{pooling}-{frames}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
