import io
import json
from dataclasses import replace

from PIL import Image

from capdec.caption import caption_files, write_records
from capdec.protocols import Decoding

SHORT = Decoding(max_tokens=6)


def _folder(tmp_path, count=5):
    for n in range(count):
        Image.new("RGB", (30, 20), (40 * n, 100, 200)).save(tmp_path / f"{n}.jpg")
    (tmp_path / "2.jpg").write_bytes(b"not a photo")
    return [str(tmp_path / f"{n}.jpg") for n in range(count)]


def test_every_path_gets_one_record_in_order_and_a_broken_photo_only_an_error(tmp_path, tiny_captioner):
    paths = _folder(tmp_path)
    for batch in (1, 2, 32):
        records = list(caption_files(tiny_captioner, paths, SHORT, batch))
        assert [record.path for record in records] == paths
        assert [record.error is None for record in records] == [True, True, False, True, True]
        assert all((record.caption is None) == (record.error is not None) for record in records)


def test_records_are_the_captions_the_captioner_gives(tmp_path, tiny_captioner):
    paths = [path for path in _folder(tmp_path) if "2.jpg" not in path]
    records = list(caption_files(tiny_captioner, paths, SHORT, batch=3))
    assert [record.caption for record in records] == tiny_captioner.caption(paths, SHORT)


def test_random_captions_do_not_depend_on_the_batch(tmp_path, tiny_captioner):
    paths = _folder(tmp_path)
    nucleus = Decoding("nucleus", max_tokens=6, seed=4)
    whole = list(caption_files(tiny_captioner, paths, nucleus, batch=32))
    for batch in (1, 2, 3):
        for one, other in zip(caption_files(tiny_captioner, paths, nucleus, batch), whole, strict=True):
            assert (one.path, one.error, one.caption and one.caption.tokens) == (other.path, other.error, other.caption and other.caption.tokens)
            assert one.caption is None or abs(one.caption.score - other.caption.score) < 1e-5  # matrix products of other sizes round otherwise
    assert len({record.caption.tokens for record in whole if record.caption}) > 1


def test_a_text_file_that_cannot_be_written_is_an_error_of_that_photo_only(tmp_path, tiny_captioner):
    paths = _folder(tmp_path)
    (tmp_path / "1.txt").mkdir()
    records = list(write_records(caption_files(tiny_captioner, paths, SHORT), beside=True))
    assert [record.error is not None for record in records] == [False, True, True, False, False]


def test_paths_are_read_no_further_ahead_than_needed(tmp_path, tiny_captioner):
    taken = []

    def paths():
        for number in range(1000):
            taken.append(number)
            yield str(tmp_path / "missing.jpg")

    next(caption_files(tiny_captioner, paths(), SHORT, batch=4))
    assert len(taken) <= 16


def test_lines_of_json_and_text_files_beside_the_photos_are_written(tmp_path, tiny_captioner):
    paths = _folder(tmp_path)
    output = io.StringIO()
    records = list(write_records(caption_files(tiny_captioner, paths, Decoding(max_tokens=6, captions=2)), output.write, beside=True))
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line["path"] for line in lines] == paths
    assert set(lines[0]) == {"path", "caption", "score", "alternatives"} and set(lines[2]) == {"path", "error"}
    assert (tmp_path / "0.txt").read_text() == records[0].caption.text + "\n"
    assert not (tmp_path / "2.txt").exists()


def test_of_a_caption_that_is_withheld_no_text_file_of_an_earlier_run_stays(tmp_path, tiny_captioner):
    (path, *_) = _folder(tmp_path)
    (record,) = write_records(caption_files(tiny_captioner, [path], SHORT), beside=True)
    assert (tmp_path / "0.txt").exists()
    list(write_records([replace(record, withheld=True)], beside=True))
    assert not (tmp_path / "0.txt").exists()
    other = replace(record, path=str(tmp_path / "0.png"), withheld=True)
    assert len(list(write_records([record, other], beside=True))) == 2 and (tmp_path / "0.txt").exists(), "it is the first one's"
