"""Caption files: paths in, records out, in the order of the paths. What cannot be opened is a record with an error, not the end of the run.

Photos and videos are opened, and brought to the size the backbone sees, in threads (`corpus.opened_photos`).
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from capdec.captioner import Captioner
from capdec.checkpoint import replacing
from capdec.corpus import opened_photos
from capdec.errors import ImageError, MissingExtra, SettingError
from capdec.protocols import Caption, Decoding
from capdec.video import is_video, open_visual

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Record:
    """What became of one path: a caption or an error. A caption that is `withheld` is there, and not to be said. Of a video, how many `frames` it was
    told from: moments, of which several may show the same one."""

    path: str
    caption: Caption | None = None
    error: str | None = None
    frames: int | None = None
    withheld: bool = False

    def as_json(self) -> str:
        """One line: path and caption (null if withheld) and score, confidence where it is known, a video's frames, the alternatives if there are any;
        or path and error."""
        if self.caption is None:
            return json.dumps({"path": self.path, "error": self.error}, ensure_ascii=False)
        said = None if self.withheld else self.caption.text
        values: dict[str, object] = {"path": self.path, "caption": said, "score": round(self.caption.score, 4)}
        if self.caption.confidence is not None:
            values |= {"confidence": round(self.caption.confidence, 4), "unsure": self.caption.unsure or self.withheld}
        if self.frames is not None:
            values["frames"] = self.frames
        if self.caption.alternatives and not self.withheld:
            values["alternatives"] = [{"caption": other.text, "score": round(other.score, 4)} for other in self.caption.alternatives]
        return json.dumps(values, ensure_ascii=False)


def caption_files(
    captioner: Captioner,
    paths: Iterable[str],
    decoding: Decoding | None = None,
    batch: int = 32,
    workers: int | None = None,
    frames: int = 8,
    pooling: str = "mean",
    least: float | None = None,
) -> Iterator[Record]:
    """A record for each path; `frames` and `pooling` are `Captioner.caption`'s, of a video. Captions of less confidence than `least` are withheld.
    Raises SettingError, at once, where that is not known."""
    if least is not None and captioner.confidence_for(decoding) is None:
        other = "calibrated for another decoding" if captioner.confidence else "not calibrated"
        raise SettingError(f"how sure to be of its captions this captioner does not know: it is {other}. See capdec calibrate --help.")

    def records() -> Iterator[Record]:
        listed, named = itertools.tee(paths)
        openers = (partial(_open, path, frames) for path in listed)
        done = 0
        for opened in opened_photos(openers, captioner.backbone, batch, workers):
            clips = [clip for clip in opened if not isinstance(clip, ImageError)]
            captions = iter(captioner.caption(clips, decoding, batch, start=done, pooling=pooling))
            done += len(clips)
            for path, clip in zip(itertools.islice(named, len(opened)), opened, strict=True):
                if isinstance(clip, ImageError):
                    yield Record(path, error=str(clip))
                    continue
                caption = next(captions)
                withheld = least is not None and (caption.confidence or 0) < least
                yield Record(path, caption, frames=len(clip) if is_video(path) else None, withheld=withheld)

    return records()


def _open(path: str, frames: int) -> "list[Image]":
    """Raises ImageError alone: without PyAV a video is one that cannot be opened."""
    try:
        return open_visual(path, frames)
    except MissingExtra as error:
        raise ImageError(f"{path}: {error}") from error


def write_records(records: Iterable[Record], write: Callable[[str], object] | None = None, beside: bool = False) -> Iterator[Record]:
    """Passes records on, giving each as a line of JSON to `write` and, with `beside`, each caption as PATH with the ending .txt; of one that is
    withheld there is no such file then."""
    written: set[Path] = set()
    for record in records:
        if write is not None:
            write(record.as_json() + "\n")
        if beside and record.caption is not None and "://" not in record.path:
            path = Path(record.path).with_suffix(".txt")
            try:
                if not record.withheld:
                    with replacing(path) as temporary:
                        temporary.write_text(record.caption.text + "\n", encoding="utf-8")
                    written.add(path)
                elif path not in written:  # photo.png may lie beside photo.jpg
                    path.unlink(missing_ok=True)  # of a run that was surer
            except OSError as error:
                record = replace(record, error=f"captioned, but its .txt could not be written: {error}")
        yield record
