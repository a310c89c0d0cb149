"""Clips drawn here: a grey that brightens with time, so that a frame's brightness says when it was."""

import builtins
import json
import os
import stat
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image

av = pytest.importorskip("av")

from capdec import video  # noqa: E402
from capdec.bridges.entity_prompt import EntityPrompt  # noqa: E402
from capdec.bridges.memory_projection import MemoryProjection  # noqa: E402
from capdec.caption import caption_files  # noqa: E402
from capdec.cli import main  # noqa: E402
from capdec.errors import ImageError, MissingExtra, SettingError  # noqa: E402
from capdec.images import SUFFIXES, find_images, open_image  # noqa: E402
from capdec.protocols import Condition, Decoding  # noqa: E402
from capdec.video import is_video, open_frames  # noqa: E402

SHORT = Decoding(max_tokens=6)


def grey(number, size=(64, 48)):
    return Image.new("RGB", size, (4 * number,) * 3)


def write(path, frames, codec="libx264", times=None, **settings):
    """A clip of 25 frames a second, or frames at `times` (in 25ths)."""
    with av.open(str(path), "w", options=settings.pop("muxer", {})) as container:
        stream = container.add_stream(codec, rate=25, options=settings.pop("options", {}))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.gop_size = "yuv420p", settings.pop("keyframes", 250)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = (times or range(len(frames)))[number], Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def levels(frames):
    """Each frame's number, by its brightness."""
    return [round(np.asarray(frame).mean() / 4) for frame in frames]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """60 frames, a keyframe every 20, B-frames between."""
    return write(tmp_path_factory.mktemp("clips") / "clip.mp4", [grey(n) for n in range(60)], keyframes=20)


MIDDLES = [3, 11, 18, 26, 33, 41, 48, 56]  # of eighths of 60 frames: 3.75, 11.25 ...


def close(found, expected):
    return len(found) == len(expected) and all(abs(one - other) <= 1 for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mpg", "mpeg2video"), ("flv", "libx264")],
)
def test_frames_come_from_the_middles_of_equal_parts_in_every_container(tmp_path, ending, codec):
    path = write(tmp_path / f"clip.{ending}", [grey(n) for n in range(60)], codec)
    frames = open_frames(path, 8)
    assert all(type(frame) is Image.Image and frame.mode == "RGB" and frame.size == (64, 48) for frame in frames)
    assert close(levels(frames), MIDDLES)


def test_one_frame_is_the_one_in_the_middle(tmp_path):
    assert levels(open_frames(write(tmp_path / "clip.mp4", [grey(n) for n in range(60)]), 1)) == [30]


def test_parts_are_of_time_not_of_frames_where_the_rate_varies(tmp_path):
    slow_then_fast = [*range(0, 100, 10), *range(100, 150)]  # ten frames in four seconds, fifty in two
    path = write(tmp_path / "varies.mp4", [grey(n) for n in range(60)], times=slow_then_fast)
    assert close(levels(open_frames(path, 3)), [2, 7, 35])


def test_a_frame_that_stands_for_several_parts_comes_several_times(tmp_path):
    path = write(tmp_path / "one.mp4", [grey(30)])
    assert close(levels(open_frames(path, 4)), [30] * 4)


def test_only_what_leads_to_the_wanted_frames_is_decoded(clip, monkeypatch):
    decoded = []
    real = video._frames
    monkeypatch.setattr(video, "_frames", lambda *given: (decoded.append(frame.pts) or frame for frame in real(*given)))
    assert levels(open_frames(clip, 3)) == [10, 30, 50]
    assert 30 <= len(decoded) <= 36, "each lies ten frames behind a keyframe"
    decoded.clear()
    assert levels(open_frames(clip, 2)) == [20, 40]
    assert len(decoded) == 2, "keyframes, and near enough to the middles, 15 and 45"


def test_a_keyframe_in_the_middle_half_of_a_part_stands_for_it(clip):
    assert levels(open_frames(clip, 8)) == [3, 11, 20, 26, 33, 40, 48, 56], "the middles are 3.75, 11.25, 18.75 ..., and 20 and 40 are near to two"


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        *(((0, 1, -1, 0), (44, 4)), ((-1, 0, 0, -1), (60, 44)), ((0, -1, 1, 0), (4, 60)), ((0, 0, 0, 0), (4, 4))),
        *(((-1, 0, 0, 1), (60, 4)), ((1, 0, 0, -1), (4, 44)), ((0, 1, 1, 0), (4, 4)), ((0, -1, -1, 0), (44, 60))),  # mirrored too
    ],
)
def test_a_clip_taken_with_a_turned_camera_comes_upright(tmp_path, matrix, corner):
    stored = Image.new("RGB", (64, 48), "white")
    stored.paste("black", (0, 0, 24, 16))
    path = tmp_path / "turned.mp4"
    content = bytearray(Path(write(path, [stored] * 3)).read_bytes())
    at = content.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        content[at + place : at + place + 4] = (value * 0x10000).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    (frame,) = open_frames(path, 1)
    assert frame.size == ((48, 64) if matrix[1] else (64, 48))
    assert frame.getpixel(corner)[0] < 60 and np.asarray(frame).mean() > 180


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.sample_aspect_ratio = 64, 48, "yuv420p", Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_image(grey(9))))
        container.mux(stream.encode())
    assert open_frames(path, 1)[0].size == (85, 48)


def test_a_title_in_another_encoding_is_no_reason_to_refuse_a_clip(tmp_path):
    path = tmp_path / "titled.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "titleXtitle"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(grey(9))))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"titleXtitle", b"title\xe9title"))
    assert levels(open_frames(path, 1)) == [9]


def test_large_frames_are_shrunk(tmp_path):
    path = write(tmp_path / "large.mp4", [grey(9, (1600, 400))])
    assert open_frames(path, 1)[0].size == (1024, 256) and open_frames(path, 1, at_most=160)[0].size == (160, 40)


def refused(path, *words, count=2, **limits):
    with pytest.raises(ImageError) as caught:
        open_frames(path, count, **limits)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"\x00" * 5000,
        b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nclip.mp4\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile clip.mp4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_what_is_no_video_is_refused_and_a_playlist_is_none(tmp_path, clip, content):
    (tmp_path / "clip.mp4").write_bytes(Path(clip).read_bytes())
    (tmp_path / "no.mp4").write_bytes(content)
    refused(tmp_path / "no.mp4", "no.mp4", "Copy or download")


def test_a_photo_that_is_called_a_video_is_refused(tmp_path):
    grey(9).save(tmp_path / "photo.mp4", "JPEG")
    refused(tmp_path / "photo.mp4", "no video")


def test_paths_that_are_no_files_are_refused(tmp_path):
    refused(tmp_path / "gone.mp4", "does not exist")
    refused(tmp_path, "does not exist")
    refused("x" * 5000 + ".mp4", "does not exist")
    refused("http://127.0.0.1:9/clip.mp4", "does not exist")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path, clip):
    path = tmp_path / "secret.mp4"
    path.write_bytes(Path(clip).read_bytes())
    path.chmod(stat.S_IWUSR)
    refused(path, "permissions")


def test_a_clip_cut_off_before_its_index_is_refused_and_one_cut_off_later_is_told_from_what_is_left(tmp_path, clip):
    whole = Path(clip).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.mp4", "cut off")
    for ending, muxer in (("mp4", {"movflags": "faststart"}), ("mkv", {})):
        path = write(tmp_path / f"late.{ending}", [grey(n) for n in range(60)], muxer=muxer)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: -len(content) // 5])
        found = levels(open_frames(path, 4))
        assert found == sorted(found) and 20 < found[-1] < 56


def test_damage_in_the_middle_leaves_frames_or_an_error(tmp_path, clip):
    whole = Path(clip).read_bytes()
    draw = np.random.default_rng(0)
    for turn in range(40):
        content = bytearray(whole)
        for place in draw.integers(0, len(content), 1 + 5 * (turn % 8)):
            content[place] = draw.integers(0, 256)
        (tmp_path / "damaged.mp4").write_bytes(content)
        try:
            assert 1 <= len(open_frames(tmp_path / "damaged.mp4", 4)) <= 4
        except ImageError as error:
            assert "damaged.mp4" in str(error)


def test_sound_alone_has_no_picture(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused(tmp_path / "sound.mp4", "no picture")


def test_a_track_without_a_frame_is_refused(tmp_path):
    path = write(tmp_path / "none.mkv", [grey(1)])
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: content.index(b"\x1f\x43\xb6\x75")])  # up to Matroska's first Cluster
    refused(path, "cut off")


def test_too_many_pixels_too_many_frames_and_too_much_work_are_refused_before_anything_is_decoded(clip, monkeypatch):
    monkeypatch.setattr(video, "_decode", lambda *_: pytest.fail("it was decoded"))
    refused(clip, "64 x 48", max_pixels=64 * 48 - 1)
    monkeypatch.setattr(video, "PACKETS", 59)
    refused(clip, "59 frames")
    monkeypatch.setattr(video, "PACKETS", 61)  # the last is empty
    monkeypatch.setattr(video, "DECODED", 64 * 48 * 20)
    refused(clip, "keyframes", count=3)


def test_a_frame_count_below_one_is_refused(clip):
    with pytest.raises(SettingError, match="1 or more"):
        open_frames(clip, 0)


def test_frames_that_grow_beyond_what_is_allowed_on_the_way_are_left_out(tmp_path):
    path = str(tmp_path / "grows.webm")
    with av.open(path, "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        large = av.CodecContext.create("libvpx-vp9", "w")
        large.width, large.height, large.pix_fmt, large.time_base = 640, 480, "yuv420p", Fraction(1, 25)
        for number in range(20):
            frame = av.VideoFrame.from_image(grey(number, (64, 48) if number < 10 else (640, 480)))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets = stream.encode(frame) if number < 10 else large.encode(frame)
            packets += stream.encode() if number == 9 else large.encode(None) if number == 19 else []
            for packet in packets:
                packet.stream = stream
                container.mux(packet)
    assert [frame.size for frame in open_frames(path, 4)] == [(64, 48)] * 2 + [(640, 480)] * 2
    assert [frame.size for frame in open_frames(path, 4, max_pixels=64 * 48)] == [(64, 48)] * 2


def test_the_work_counts_the_frames_that_come_and_not_those_that_were_announced(tmp_path, monkeypatch):
    path = str(tmp_path / "grows.ts")
    with open(path, "wb") as both:
        for count, size in ((2, (64, 48)), (60, (640, 480))):
            both.write(Path(write(tmp_path / f"{count}.ts", [grey(number, size) for number in range(count)], "mpeg2video")).read_bytes())
    monkeypatch.setattr(video, "DECODED", 2_000_000)
    refused(path, "more than 2,000,000 pixels")


def test_a_size_that_only_the_frames_themselves_declare_costs_nothing(tmp_path):
    path = write(tmp_path / "absurd.webm", [grey(n) for n in range(3)], "libvpx")
    content = Path(path).read_bytes()
    at = content.index(b"\x9d\x01\x2a") + 3  # VP8's keyframe: width and height
    Path(path).write_bytes(content[:at] + b"\xff\x3f\xff\x3f" + content[at + 4 :])
    refused(path, "no frame")


def test_videos_are_known_by_their_endings():
    assert all(map(is_video, ("clip.mp4", "CLIP.MOV", "a/b.webm")))
    assert not any(map(is_video, ("photo.jpg", "animation.gif", "mp4", "https://example.org/clip.mp4")))
    assert not set(video.SUFFIXES) & set(SUFFIXES)


def test_folders_and_patterns_find_videos_among_photos_where_they_are_wanted(tmp_path):
    for name in ("b.jpg", "a.MOV", "sub/c.mp4", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(path, *suffixes):
        return [one.removeprefix(f"{tmp_path}/") for one in find_images([path], *suffixes)]

    assert found(str(tmp_path)) == ["b.jpg"]
    assert found(str(tmp_path), SUFFIXES + video.SUFFIXES) == ["a.MOV", "b.jpg", "sub/c.mp4"]
    assert found(f"{tmp_path}/*", SUFFIXES + video.SUFFIXES) == ["a.MOV", "b.jpg"]


@pytest.fixture
def no_pyav(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)


def test_without_pyav_a_video_names_the_extra_and_a_run_goes_on(tmp_path, clip, tiny_captioner, no_pyav):
    with pytest.raises(MissingExtra, match=r"capdec\[video\]"):
        tiny_captioner.caption([clip])
    grey(3).save(tmp_path / "photo.png")
    first, second = caption_files(tiny_captioner, [clip, str(tmp_path / "photo.png")], SHORT)
    assert "capdec[video]" in first.error and second.error is None


def pictures(count, seed=0):
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def captioner(tiny_captioner, monkeypatch):
    """One whose backbone tells photos apart, which an untrained one hardly does."""

    def seen(images, count):
        draws = [torch.randn(1 + count, 16, generator=torch.Generator().manual_seed(image.getpixel((0, 0))[0])) for image in images]
        return F.normalize(torch.stack(draws), dim=-1)

    monkeypatch.setattr(tiny_captioner.backbone, "encode_image", lambda images, normalize=True: seen(images, 0)[:, 0])
    monkeypatch.setattr(tiny_captioner.backbone, "encode_regions", seen)
    return tiny_captioner


def test_a_clip_of_one_frame_is_a_photo(captioner):
    photos = pictures(3)
    for pooling in ("mean", "projected"):
        assert captioner.caption([[photo] for photo in photos], pooling=pooling) == captioner.caption(photos)


@pytest.mark.parametrize("rerank", ["none", "clip"])
def test_the_mean_of_the_frames_embeddings_is_told(captioner, rerank):
    clips, decoding = [pictures(4), pictures(1, 1), pictures(3, 2)], Decoding(max_tokens=6, captions=2, rerank=rerank)
    expected = captioner.caption_embeddings(torch.stack([captioner.backbone.encode_image(clip).mean(0) for clip in clips]), decoding)
    found = captioner.caption(clips, decoding)
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    assert [caption.score for caption in found] == pytest.approx([caption.score for caption in expected], abs=1e-5)


def test_projected_frames_are_told_as_the_mean_of_what_the_bridges_make_of_each(captioner, monkeypatch):
    bridge, clips = MemoryProjection.tiny(None), [pictures(4), pictures(1, 1), pictures(3, 2)]
    captioner.bridges = [bridge]
    told = []
    real = captioner.decoder.generate
    monkeypatch.setattr(captioner.decoder, "generate", lambda condition, decoding: (told.append(condition.embeddings), real(condition, decoding))[1])
    captioner.caption(clips, SHORT, pooling="projected")
    captioner.caption(clips, SHORT, pooling="mean")
    projected, mean = told
    for place, clip in enumerate(clips):
        each = bridge.from_image(Condition.of(captioner.backbone.encode_image(clip)), None).embeddings[:, 0].mean(0)
        torch.testing.assert_close(projected[place, 0], each / each.norm())
    assert projected.shape == mean.shape == (3, 1, 16) and not torch.allclose(projected[0], mean[0])


@pytest.mark.parametrize("pooling", ["mean", "projected"])
def test_a_clips_neighbours_choose_among_its_candidates(captioner, pooling):
    bridge = MemoryProjection.tiny(None)
    bridge.memory.texts = ["a man"] * len(bridge.memory.rows)
    captioner.bridges, captioner.styles = [bridge], ("", "a")
    decoding = Decoding(max_tokens=6, captions=2, rerank="neighbours", neighbours=2, style="a")
    first, photo = captioner.caption([pictures(3), pictures(1, 1)], decoding, pooling=pooling)
    assert first.alternatives and photo == captioner.caption(pictures(1, 1), decoding)[0]


def test_regions_of_a_clip_are_its_frames_in_turn(captioner, monkeypatch):
    clip, told = pictures(2), []
    monkeypatch.setattr(type(captioner), "regions", 3)
    monkeypatch.setattr(captioner.decoder, "generate", lambda condition, _: told.append(condition.embeddings) or [[]] * len(condition))
    with pytest.raises(ValueError, match="unpack"):  # of no caption there is no best
        captioner.caption([clip], SHORT)
    first, second = captioner.backbone.encode_regions(clip, 3)
    mean = first[0] + second[0]
    torch.testing.assert_close(told[0][0], torch.stack([mean / mean.norm(), first[1], second[1], first[2]]))


def test_what_has_no_mean_is_not_projected_and_other_poolings_are_refused(tmp_path, captioner):
    captioner.bridges = [EntityPrompt.tiny(tmp_path)]
    with pytest.raises(SettingError, match='Take "mean"'):
        captioner.caption([pictures(2)], SHORT, pooling="projected")
    with pytest.raises(SettingError, match="mean, projected"):
        captioner.caption([pictures(2)], SHORT, pooling="max")
    with pytest.raises(ImageError, match="without a frame"):
        captioner.caption([[]], SHORT)


def test_the_command_captions_videos_among_photos_in_order(tmp_path, clip, tiny_captioner):
    tiny_captioner.save(tmp_path / "captioner")
    album = tmp_path / "album"
    album.mkdir()
    grey(3).save(album / "a.png")
    (album / "b.mp4").write_bytes(Path(clip).read_bytes())
    (album / "c.mp4").write_text("no video")
    options = ["--captioner", str(tmp_path / "captioner"), "--max-tokens", "6", "--dtype", "float32"]
    done = CliRunner().invoke(main, ["caption", str(album), *options, "--frames", "3", "--pooling", "projected", "--write", "txt"])
    photo, told, failed = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 1 and "2 captioned, 1 failed" in done.stderr
    assert [set(one) for one in (photo, told, failed)] == [{"path", "caption", "score"}, {"path", "caption", "score", "frames"}, {"path", "error"}]
    (expected,) = tiny_captioner.caption([clip], SHORT, frames=3, pooling="projected")
    assert (told["path"], told["caption"], told["frames"]) == (str(album / "b.mp4"), expected.text, 3)
    assert (album / "b.txt").read_text() == expected.text + "\n"


def test_an_address_of_a_video_says_what_can_be_read():
    with pytest.raises(ImageError, match=r"a video \(.*files"):
        open_image(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2")
