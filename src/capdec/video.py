"""Safe opening of videos: a few frames of a clip, from the middles of equal parts of its time, as upright 8-bit RGB photos; or one ImageError that
says why not.

The file is read twice. First every packet's time is noted and nothing is decoded: so a frame rate that varies, a length that is wrongly declared or a
recording that broke off do no harm. Then the frames wanted are decoded, and what lies between them and the keyframes before them. Where there is a
keyframe in the middle half of a part it is the one that is wanted: most videos have one every few seconds.

What is refused: what is no video (a playlist, which would name further files, is none), what has no picture, frames of more pixels than allowed, and
what is out of all proportion to work through (`PACKETS, DECODED`).
"""

import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from capdec.errors import ImageError, MissingExtra, SettingError, one_line
from capdec.images import LONGEST_SIDE, open_image

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ogv", ".wmv", ".flv")
"""Of videos. An animated GIF or WebP is a photo: its first frame."""

FORMATS = "mov,matroska,avi,mpeg,mpegts,ogg,asf,flv"
"""FFmpeg's names of what is read: no playlist, no device, no text drawn as a picture."""

MAX_PIXELS = 36_000_000
"""Of a frame: 8K. A decoder may hold 17."""

PACKETS, DECODED = 2_000_000, 50_000_000_000
"""How much work a clip is worth: frames in it (nine hours at 60 a second), and pixels decoded of it (24,000 frames of full HD)."""


def is_video(path: str | Path) -> bool:
    """By its ending. An address is none: only files are read."""
    return "://" not in str(path) and str(path).lower().endswith(SUFFIXES)


def open_visual(path: str | Path, count: int) -> list[Image.Image]:
    """`count` frames of a video; a photo as a clip of one frame. Raises what `open_frames` and `open_image` raise."""
    return open_frames(path, count) if is_video(path) else [open_image(path, at_most=LONGEST_SIDE)]


def open_frames(path: str | Path, count: int, max_pixels: int = MAX_PIXELS, at_most: int = LONGEST_SIDE) -> list[Image.Image]:
    """What is shown in, or about, the middle of each of `count` equal parts of the clip, in order, the longest side at most `at_most`. A frame that
    stands for several parts comes several times; one that is too damaged to be decoded does not come.

    Raises ImageError, in one line; MissingExtra without PyAV; SettingError for a count below 1.
    """
    if count < 1:
        raise SettingError(f"frames = {count}: a clip is told from 1 or more.")
    try:
        import av
    except ImportError as error:
        raise MissingExtra("av", "video", "captioning a video") from error
    name = one_line(path)
    options: dict[str, Any] = {"container_options": {"format_whitelist": FORMATS}, "metadata_errors": "replace", "buffer_size": 1 << 20}
    if not os.path.isfile(path):  # noqa: PTH113, for Path raises where a name is too long
        raise ImageError(f"{name} does not exist, or is no file. Check the path.")
    try:
        with open(path, "rb") as file:  # opened here, for FFmpeg takes some names for addresses
            with av.open(file, "r", **options) as container:
                shown, spans = _plan(container, count, max_pixels, name)
            file.seek(0)
            with av.open(file, "r", **options) as container:
                photos = _decode(container, spans, max_pixels, at_most, name)
    except ImageError:
        raise
    except PermissionError as error:
        raise ImageError(f"{name} may not be read by this user. Check its permissions.") from error
    except Exception as error:  # FFmpegError, and whatever a damaged file leads PyAV to
        reason = one_line(getattr(error, "strerror", None) or error) or type(error).__name__
        raise ImageError(f"{name} is no video, or is cut off or damaged ({reason}). Copy or download it again.") from error
    if not photos:
        raise ImageError(f"{name} has no frame that can be decoded. Copy or download it again, or save it as H.264.")
    return [photos[number] for number in shown if number in photos]


class _Shown(NamedTuple):
    """A frame, as its packet says: when it is shown, which packet of the stream it is, and for how long it is shown; times in the stream's unit."""

    time: int
    number: int
    duration: int


Spans = dict[int, list[_Shown]]
"""By the number of the packet to begin from: the frames wanted, in order of time."""


def _plan(container: "InputContainer", count: int, max_pixels: int, name: str) -> tuple[list[int], Spans]:
    """The numbers of the packets to be shown, in order of time, and how to get at them."""
    stream = _picture(container, name)
    width, height = stream.codec_context.width, stream.codec_context.height
    if not 0 < width * height <= max_pixels:
        raise ImageError(f"{name} has frames of {width} x {height} pixels, and 1 to {max_pixels:,} are allowed. Shrink it first.")
    frames, keys = [], []
    for number, packet in _packets(container, stream):
        if number == PACKETS:
            raise ImageError(f"{name} has more than {PACKETS:,} frames. Cut it into several.")
        time = packet.dts if packet.pts is None else packet.pts
        if packet.size and time is not None:
            frames.append(_Shown(time, number, packet.duration or 1))
            keys += frames[-1:] if packet.is_keyframe else []
    if not frames:
        raise ImageError(f"{name} has no frame in it. Copy or download it again.")
    numbers = [key.number for key in keys] or [0]
    frames.sort()
    keys.sort()
    start, length = frames[0].time, frames[-1].time + frames[-1].duration - frames[0].time
    shown = [_about(start + length * (2 * part + 1) // (2 * count), length / (4 * count), frames, keys) for part in range(count)]
    spans: Spans = {}
    for frame in sorted(set(shown)):
        spans.setdefault(numbers[max(0, bisect_right(numbers, frame.number) - 1)], []).append(frame)
    work = sum(max(frame.number for frame in wanted) - key + 1 for key, wanted in spans.items()) * width * height
    if work > DECODED:
        raise ImageError(f"{name} has so few keyframes that {work:,} pixels would have to be decoded. Save it again with more, or take fewer frames.")
    return [frame.number for frame in shown], spans


def _about(middle: int, reach: float, frames: list[_Shown], keys: list[_Shown]) -> _Shown:
    """The keyframe nearest to the middle, which alone need be decoded, if it is within reach; else what is shown in the middle."""
    place = bisect_right(keys, middle, key=lambda key: key.time)
    key = min(keys[max(0, place - 1) : place + 1], key=lambda key: abs(key.time - middle), default=None)
    if key is not None and abs(key.time - middle) <= reach:
        return key
    return frames[max(0, bisect_right(frames, middle, key=lambda frame: frame.time) - 1)]


def _decode(container: "InputContainer", spans: Spans, max_pixels: int, at_most: int, name: str) -> dict[int, Image.Image]:
    """The photos by their packets' numbers. A decoder may know a frame's time less well than its container: it is the first at its time or later, or
    the last that there is."""
    stream, work = _picture(container, name), 0
    stream.codec_context.options = {"max_pixels": str(max_pixels)}  # the size may change on the way
    packets, photos = _packets(container, stream), {}
    for start, wanted in sorted(spans.items()):
        waiting, frame = list(reversed(wanted)), None
        for frame in _frames(stream, packets, start, max(start, *(one.number for one in wanted))):
            work += frame.width * frame.height
            if work > DECODED:  # frames are larger than they were said to be
                raise ImageError(f"{name} would have more than {DECODED:,} pixels decoded. Save it again, in frames of one size.")
            while waiting and frame.pts is not None and frame.pts >= waiting[-1].time:
                photos[waiting.pop().number] = _photo(frame, stream, at_most)
        if waiting and frame is not None:
            photos |= dict.fromkeys((one.number for one in waiting), _photo(frame, stream, at_most))
    return photos


def _picture(container: "InputContainer", name: str) -> "VideoStream":
    best = container.streams.best("video")
    stream = next((one for one in container.streams.video if one is best), None)
    if stream is None or stream.disposition & stream.disposition.attached_pic:
        raise ImageError(f"{name} has no picture, but sound or text alone. Is it the right file?")
    if stream.codec_context is None:
        raise ImageError(f"{name} is of a kind that this PyAV cannot decode. Save it as H.264.")
    return stream


def _packets(container: "InputContainer", stream: "VideoStream") -> "Iterator[tuple[int, Packet]]":
    """Numbered, up to where the file breaks off."""
    from av import FFmpegError

    with suppress(FFmpegError):
        yield from enumerate(container.demux(stream))


def _frames(stream: "VideoStream", packets: "Iterable[tuple[int, Packet]]", start: int, last: int) -> "Iterator[VideoFrame]":
    """What can be decoded of packets `start` to `last`, in order of time."""
    from av import FFmpegError

    for number, packet in packets:
        if number >= start:
            with suppress(FFmpegError):
                yield from stream.codec_context.decode(packet)
        if number >= last:
            break
    with suppress(FFmpegError):
        yield from stream.codec_context.decode(None)
    stream.codec_context.flush_buffers()


def _photo(frame: "VideoFrame", stream: "VideoStream", at_most: int) -> Image.Image:
    photo = frame.to_image()
    aspect = stream.sample_aspect_ratio or 1  # of a pixel
    if aspect != 1 and 1 / 4 < aspect < 4:
        photo = photo.resize((max(1, round(photo.width * aspect)), photo.height), reducing_gap=3.0)
    photo.thumbnail((at_most, at_most), Image.Resampling.BICUBIC, reducing_gap=3.0)
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return photo if matrix is None else _turned(photo, bytes(matrix))


def _turned(photo: Image.Image, matrix: bytes) -> Image.Image:
    """As the display matrix has it, by quarters of a turn, mirrored or not: a pixel's place is (ax + cy, bx + dy)."""
    a, b, _, c, d, *_ = struct.unpack("9i", matrix)
    if abs(b) > abs(a):
        photo, a, d = photo.transpose(Image.Transpose.TRANSPOSE), c, b
    photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if a < 0 else photo
    return photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if d < 0 else photo
