"""The embedded captioner from JPEGs on disk to captions, as `capdec caption` does it, and how long a shell waits for the first one.

    python benchmarks/embedded.py [RESULT.json]

The photos are crops of those that come with scikit-image, 640 x 480 at quality 90. That captions in bfloat16 are as good is
what benchmarks/precision.py measures, on captioned photos.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from encoders import jpegs
from side_by_side import DEVICE, Way, compare, report

from capdec import Captioner
from capdec.caption import caption_files

PHOTOS = 192


def main() -> None:
    plain, fast = Captioner.load(device=DEVICE), Captioner.load(device=DEVICE, dtype="bfloat16")
    command = [str(Path(sys.executable).with_name("capdec"))]

    def shell(*words: str) -> Way:
        return Way(" ".join(["capdec", *(Path(word).name if "/" in word else word for word in words)]), lambda: subprocess.run(
            [*command, *words], check=True, capture_output=True))  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        paths = jpegs(Path(folder), PHOTOS)

        def captions(captioner: Captioner, batch: int) -> list[str]:
            records = list(caption_files(captioner, paths, batch=batch))
            assert all(record.error is None for record in records)
            return [record.caption.text for record in records if record.caption is not None]

        said, again = captions(plain, 32), captions(fast, 32)
        same = sum(one == other for one, other in zip(said, again, strict=True)) / PHOTOS
        assert same > 0.8, f"only {same:.0%} of the captions in bfloat16 are float32's"
        whole = compare(
            "photos to captions, the embedded captioner, files of 640 x 480",
            "photos",
            Way("capdec, bfloat16", lambda: captions(fast, 32), PHOTOS),
            [Way("capdec, float32", lambda: captions(plain, 32), PHOTOS)],
            rounds=4,
            equal=f"{same:.0%} of the captions equal",
            note="aim: 40 photos a second on 2 cores",
        )
        first = compare(
            "the first caption, from the shell",
            "runs",
            shell("caption", paths[0]),
            [shell("caption", paths[0], "--dtype", "float32"), shell("--help")],
            rounds=5,
            note="aims: 3 s, and 0.3 s for --help",
        )
    report([whole, first])


if __name__ == "__main__":
    main()
