import sys

import pyarrow
import pytest
from pyarrow import parquet

from capdec.datasets.table import Table
from capdec.errors import DataError, MissingExtra, SettingError
from capdec.protocols import Example


def read(path, content: str | dict, **settings) -> list[Example]:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        parquet.write_table(pyarrow.table(content), path)
    return list(Table(path, **settings))


def test_a_csv_is_read_by_its_header(tmp_path):
    rows = read(tmp_path / "t.csv", '\ufeffimage,Caption \n7.jpg,"a dog, and\na  ""hound"""\n\n8.jpg,a cat\n')
    assert rows == [Example(('a dog, and a "hound"',), "7.jpg"), Example(("a cat",), "8.jpg")]


def test_a_tsv_needs_no_quotes_around_commas(tmp_path):
    assert read(tmp_path / "t.tsv", "id\ttext\n1\ta dog, a cat\n") == [Example(("a dog, a cat",), "1")]


def test_column_and_delimiter_can_be_named(tmp_path):
    flickr = "image_name| comment_number| comment\n7.jpg| 0| A dog , running .\n"
    assert read(tmp_path / "t.csv", flickr, column="comment", delimiter="|") == [Example(("A dog , running .",))]
    with pytest.raises(DataError, match=r"no column caption or .* set delimiter=.*'image_name\| comment_number\| comment'"):
        read(tmp_path / "t.csv", flickr)
    with pytest.raises(DataError, match="no column words"):
        read(tmp_path / "t.csv", "caption\na dog\n", column="words")
    with pytest.raises(SettingError, match="one character"):
        Table("t.csv", delimiter="::")


def test_source_and_target_columns_are_a_pair(tmp_path):
    assert read(tmp_path / "t.csv", "source,target,id\na dog,ein Hund,4\na cat,,5\n") == [Example(("ein Hund",), "4", sources=("a dog",))]
    rows = read(tmp_path / "t.parquet", {"source": [["a", "b"]], "target": [["A", "B"]]})
    assert rows == [Example(("A", "B"), sources=("a", "b"))]
    with pytest.raises(DataError, match="row 1, has 2 sources for 1 targets"):
        read(tmp_path / "t.parquet", {"source": [["a", "b"]], "target": [["A"]]})


def test_a_cell_may_hold_a_json_list(tmp_path):
    assert read(tmp_path / "t.csv", 'captions\n"[""a dog"", ""a hound""]"\n"[""quoted"" sign]"\n') == [
        Example(("a dog", "a hound")),
        Example(('["quoted" sign]',)),
    ]


def test_parquet_is_read_with_lists_nulls_and_numbers_for_ids(tmp_path):
    rows = read(tmp_path / "t.parquet", {"image_id": [1, 2, 3], "captions": [["a dog", " a  hound"], None, ["a cat", None]], "noise": [1, 2, 3]})
    assert rows == [Example(("a dog", "a hound"), "1"), Example(("a cat",), "3")]


def test_an_image_inside_a_parquet_file_is_not_taken_for_its_id(tmp_path):
    assert read(tmp_path / "t.parquet", {"image": [{"bytes": b"..", "path": "7.jpg"}], "text": ["a dog"]}) == [Example(("a dog",))]


def test_parquet_comes_in_batches_and_in_order(tmp_path):
    rows = read(tmp_path / "t.parquet", {"caption": [f"caption {number}" for number in range(10_000)]})
    assert [row.captions[0] for row in rows] == [f"caption {number}" for number in range(10_000)]


def test_a_row_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv:3 has 3 cells where the header has 2.*quotes"):
        read(tmp_path / "t.csv", "image,caption\n1,a dog\n2,a cat, asleep\n")
    with pytest.raises(DataError, match=r"t\.csv:2 is not a row of a table"):
        read(tmp_path / "t.csv", 'caption\n"a dog" asleep\n')
    with pytest.raises(DataError, match="row 2, has a caption that is no text"):
        read(tmp_path / "t.parquet", {"caption": [None, 3.5]})
    (tmp_path / "t.csv").write_bytes(b"caption\nH\xfcndchen\n")
    with pytest.raises(DataError, match=r"t\.csv:2 is not UTF-8"):
        list(Table(tmp_path / "t.csv"))


def test_files_that_are_empty_missing_or_foreign_are_errors(tmp_path):
    with pytest.raises(DataError, match="no column"):
        read(tmp_path / "t.csv", "")
    with pytest.raises(DataError, match="holds no captions"):
        read(tmp_path / "t.csv", "caption\n")
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(DataError, match=r"none\.(csv|parquet) cannot be read"):
            list(Table(tmp_path / name))
    (tmp_path / "t.csv").rename(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(Table(tmp_path / "t.parquet"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"capdec\[data\]"):
        list(Table(tmp_path / "t.parquet"))


def test_reading_twice_gives_the_same(tmp_path):
    dataset = Table.tiny(tmp_path)
    assert list(dataset) == list(dataset) and len(list(dataset)) == 2
    assert Table.recognises("a.PARQUET") and not Table.recognises("a.txt")


def test_a_header_of_semicolons_parts_cells_by_semicolons_and_another_encoding_is_named(tmp_path):
    (tmp_path / "c.csv").write_text('image_id;caption\n1;a dog, and a cat\n2;"a; b"\n')
    assert [example.captions for example in Table(tmp_path / "c.csv")] == [("a dog, and a cat",), ("a; b",)]
    (tmp_path / "c.csv").write_text("image_id,caption\n1,ein Haus\n", encoding="utf-16")
    with pytest.raises(DataError, match="iconv -f UTF-16"):
        list(Table(tmp_path / "c.csv"))
