import json

import pytest
from click.testing import CliRunner

from capdec import parts
from capdec.cli import main
from capdec.errors import DataError, MissingExtra, SettingError
from capdec.prepare import cut_sentences, prepare, report_path
from capdec.train import train
from conftest import DECODER

BOOK = """The Project Gutenberg eBook of A Tale. It was made by a man in the street.

*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***

CHAPTER I. THE DOG OF THE HOUSE

A brown dog ran over the old bridge, past Mr. Knightley and the well-
known house. "It is a dog!" cried Mrs. Bennet.

It was much too late for any regret at all. A BROWN dog ran over the old bridge, past Mr. Knightley and the well-known house.
Look there. The man wrote 2 + 2 on the wall of a house. He saw that the man and the dog and the boy and the girl were in the
house and in the street, and on the bridge.

*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***

A cat sat in the house of the man who made this book.
"""


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(BOOK, encoding="utf-8")
    return str(path)


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts_of(path):
    return [text for row in rows_of(path) for text in row["captions"]]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He met Dr. Perry, e.g. on\nMonday. Then he slept.", ["He met Dr. Perry, e.g. on Monday.", "Then he slept."]),
        ("CHAPTER I\n\nIt was cold.", ["CHAPTER I", "It was cold."]),
        ("Ge1:3 And he said, saying,\n1Chr1:4 Go. They went.", ["And he said, saying, Go.", "They went."]),
        ("1:1 In the beginning.\n\n1:2 And the earth\nwas dark.", ["In the beginning.", "And the earth was dark."]),
        ("They came at\n5:30 in the morning.", ["They came at 5:30 in the morning."]),
        ('"Yes. It was red." He left.', ["Yes.", "It was red.", "He left."]),
        ("“Oh! my dear,” he said. It's _very_ cold.", ["“Oh! my dear,” he said.", "It's very cold."]),
        ("Ein Hund läuft z.B. über die Brücke. Er bellt.", ["Ein Hund läuft z.B. über die Brücke.", "Er bellt."]),
        ("  \n\n ", []),
    ],
)
def test_running_text_is_cut_into_sentences(text, sentences):
    assert list(cut_sentences(text)) == sentences


def test_sentences_that_do_not_serve_are_dropped_and_counted_by_their_reason(book, tmp_path):
    report = prepare([book], tmp_path / "prepared.jsonl", sentences=True)
    sentence = "A brown dog ran over the old bridge, past Mr. Knightley and the well-known house."
    assert texts_of(tmp_path / "prepared.jsonl") == [sentence, '"It is a dog!" cried Mrs. Bennet.']
    assert report == json.loads(report_path(tmp_path / "prepared.jsonl").read_text(encoding="utf-8"))
    dropped = {reason: one["examples"] for reason, one in report["dropped"].items()}
    assert dropped == {
        "odd characters": ["The man wrote 2 + 2 on the wall of a house."],
        "no sentence": ["CHAPTER I. THE DOG OF THE HOUSE"],
        "too few words": ["Look there."],
        "too many words": ["He saw that the man and the dog and the boy and the girl were in the house and in the street, and on the bridge."],
        "said before": ["A BROWN" + sentence.removeprefix("A brown")],
        "not visual": ["It was much too late for any regret at all."],
    }
    assert all(one["count"] == len(one["examples"]) for one in report["dropped"].values())
    assert report["read"] == report["kept"]["count"] + sum(one["count"] for one in report["dropped"].values())


def test_captions_are_taken_as_they_are_with_their_photos_and_sources(tmp_path):
    (tmp_path / "lines.txt").write_text("a dog\n\nno end, and 2 + 2\na dog\n")
    lines = [{"image_id": "7", "captions": ["a dog", "A Dog", "joy"]}, {"image_id": "8", "source": "a dog", "target": "joy"}]
    (tmp_path / "style.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare([str(tmp_path / "lines.txt"), str(tmp_path / "style.jsonl")], tmp_path / "out.jsonl", sentences=False)
    assert rows_of(tmp_path / "out.jsonl") == [
        {"captions": ["a dog"]},
        {"image_id": "7", "captions": ["a dog", "joy"]},
        {"image_id": "8", "source": ["a dog"], "target": ["joy"]},
    ]


def test_texts_of_any_dataset_can_be_cut_into_sentences(tmp_path):
    (tmp_path / "news.jsonl").write_text(json.dumps({"image_id": "7", "text": "A man fell off his horse. It was a grey day. A dog barked at him."}))
    prepare([str(tmp_path / "news.jsonl")], tmp_path / "out.jsonl", sentences=True)
    assert rows_of(tmp_path / "out.jsonl") == [{"image_id": "7", "captions": ["A man fell off his horse.", "A dog barked at him."]}]


@pytest.mark.parametrize(("share", "corpus", "plain"), [(0.5, 40, 40), (0.1, 27, 240), (0.25, 40, 120), (1.0, 40, 0)])
def test_the_share_is_as_asked_and_as_much_is_kept_as_it_leaves_room_for(tmp_path, captions_file, share, corpus, plain):
    (tmp_path / "book.txt").write_text("".join(f"The king has {n} horses and a dog. " for n in range(40)))
    given = {"sentences": True, "mix": str(captions_file), "share": share}
    report = prepare([str(tmp_path / "book.txt")], tmp_path / "out.jsonl", **given)
    rows = rows_of(tmp_path / "out.jsonl")
    counts = [sum(len(row["captions"]) for row in rows if ("image_id" in row) is mixed) for mixed in (False, True)]
    assert counts == [corpus, plain] == [report["written"]["corpus"], report["written"]["plain"]]
    assert report["written"]["share"] == pytest.approx(share, abs=0.01)
    assert sum(len(row["captions"]) != 3 for row in rows if "image_id" in row) <= 1, "whole photos but for one"
    written = (tmp_path / "out.jsonl").read_bytes()
    prepare([str(tmp_path / "book.txt")], tmp_path / "out.jsonl", **given)
    assert (tmp_path / "out.jsonl").read_bytes() == written
    prepare([str(tmp_path / "book.txt")], tmp_path / "out.jsonl", **given, seed=1)
    assert ((tmp_path / "out.jsonl").read_bytes() == written) is (share == 1.0)


def test_likeness_is_to_plain_captions_of_other_photos(tmp_path, tiny_backbone, captions_file):
    backbone = parts.build("backbones", tiny_backbone)
    same, unlike = "a man runs on grass", "Wherefore art thou, O righteousness of the everlasting covenant?"
    (tmp_path / "lines.txt").write_text(f"{same}\n{unlike}\n")
    given = {"sentences": False, "visual": "likeness", "mix": str(captions_file), "share": 1.0, "backbone": backbone}
    report = prepare([str(tmp_path / "lines.txt")], tmp_path / "out.jsonl", **given)
    assert texts_of(tmp_path / "out.jsonl") == [same]
    why = report["dropped"]["not visual"]["why"]
    assert "95 %" in why and backbone.fingerprint in why
    cosines = backbone.encode_text([unlike]) @ backbone.encode_text([text for row in rows_of(captions_file) for text in row["captions"]]).T
    assert cosines.max().item() < float(why.partition("below ")[2].partition(",")[0]) <= 1


def test_careless_capitals_are_mended_by_the_majority_inside_of_sentences(tmp_path):
    mended = {
        "ein Mann sieht ein mädchen": "Ein Mann sieht ein Mädchen",
        "Das Mädchen mit T-Shirt": "Das Mädchen mit T-Shirt",
        "zwei Mädchen. Wo, mann? Hund": "Zwei Mädchen. Wo, Mann? Hund",  # where a sentence begins nothing is learned
        "der Mann im NASA t-shirt": "Der Mann im NASA T-Shirt",
        "Mann und T-Shirt beim Kochen": "Mann und T-Shirt beim Kochen",
        "zwei kochen, zwei kochen": "Zwei kochen, zwei kochen",
    }
    (tmp_path / "lines.txt").write_text("\n".join(mended), encoding="utf-8")
    prepare([str(tmp_path / "lines.txt")], tmp_path / "out.jsonl", sentences=False, recase=True)
    assert texts_of(tmp_path / "out.jsonl") == list(mended.values())


def test_gendered_words_are_rewritten_before_the_questions_and_a_text_stays_its_own_source(tmp_path):
    lines = [{"captions": ["a man runs", "a woman runs"]}, {"source": "a man runs", "target": "his hat is red"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "mix.jsonl").write_text(json.dumps({"image_id": "1", "captions": ["a man", "a woman", "a cat"]}) + "\n")
    prepare([str(tmp_path / "c.jsonl")], tmp_path / "out.jsonl", gender="neutral", mix=str(tmp_path / "mix.jsonl"), share=0.4)
    assert rows_of(tmp_path / "out.jsonl") == [
        {"captions": ["a person runs"]},
        {"source": ["a person runs"], "target": ["their hat is red"]},
        {"image_id": "1", "captions": ["a person", "a person", "a cat"]},
    ]


def test_source_and_target_are_balanced_by_one_coin(tmp_path):
    rows = [{"source": f"a man with {n} dogs", "target": f"the man and {n} dogs"} for n in range(20)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare([str(tmp_path / "c.jsonl")], tmp_path / "out.jsonl", gender="balanced")
    pairs = [(row["source"][0], row["target"][0]) for row in rows_of(tmp_path / "out.jsonl")]
    assert all(("woman" in source) == ("woman" in target) for source, target in pairs)
    assert 4 < sum("woman" in target for _, target in pairs) < 16


def test_what_knows_english_alone_refuses_other_languages(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"captions": ["Hier sieht man einen Hund", "man sagt er sei her"]}) + "\n", encoding="utf-8")
    for given, words in (({}, "not all of these texts look English"), ({"language": "de"}, "'de' came")):
        with pytest.raises(SettingError, match=words):
            prepare([str(path)], tmp_path / "out.jsonl", gender="neutral", **given)
    with pytest.raises(SettingError, match="lexicon of visible things is English"):
        prepare([str(path)], tmp_path / "out.jsonl", visual="nouns", language="de")
    assert not (tmp_path / "out.jsonl").exists()


def test_what_was_prepared_trains(book, tmp_path, captions_file, tiny_backbone):
    result = CliRunner().invoke(
        main, ["prepare", book, "--sentences", "--mix", str(captions_file), "--share", "0.1", "--output", f"{tmp_path}/p.jsonl"]
    )
    assert result.exit_code == 0, result.output
    assert "not visual" in result.output and "2 of the text's and 18 plain captions: a share of 0.100" in result.output
    captioner = train(
        str(tmp_path / "p.jsonl"), tmp_path / "run", backbone=tiny_backbone, bridges=[], decoder=DECODER, training={"steps": 2, "batch": 8}
    )
    assert captioner.spec["decoder"]["name"] == "small_transformer"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "--sentences.*--lines"),
        ({"sentences": True, "words": (5, 4)}, "5 and 4 came"),
        ({"sentences": True, "share": 0.5}, "name those"),
        ({"sentences": True, "near": 50.0}, "what likeness asks"),
        ({"sentences": True, "visual": "likeness", "near": 101.0}, "at most 100"),
        ({"sentences": True, "visual": "likeness"}, "--mix, --backbone"),
    ],
)
def test_what_cannot_be_asked_is_said(book, tmp_path, given, words):
    with pytest.raises(SettingError, match=words):
        prepare([book], tmp_path / "out.jsonl", **given)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"a line\nna\xefve man", r"book.txt:2 is not UTF-8.*iconv"),
        (b"Regret came over them too late. It was so sad to be there.", r"nothing is left of 2 texts.*2, were dropped as 'not visual'"),
        (b"- - -\n\n--", "no sentence was found"),
        (None, "cannot be read"),
    ],
)
def test_a_text_that_cannot_be_used_leaves_no_file(tmp_path, content, words):
    if content is not None:
        (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        prepare([str(tmp_path / "book.txt")], tmp_path / "out.jsonl", sentences=True)
    assert not list(tmp_path.glob("*out*"))


def test_without_syntok_the_error_names_the_extra(book, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "syntok", None)
    with pytest.raises(MissingExtra, match=r"capdec\[text\]"):
        prepare([book], tmp_path / "out.jsonl", sentences=True)


def test_captions_of_another_language_are_refused_beside_english_ones_too(tmp_path, captions_file):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"captions": ["Hier sieht man einen Hund", "man sagt er sei her"]}) + "\n", encoding="utf-8")
    with pytest.raises(SettingError, match="not all of these texts look English"):
        prepare([str(path)], tmp_path / "out.jsonl", gender="neutral", mix=str(captions_file))


def test_what_would_be_read_as_something_else_or_lose_an_input_is_no_output(tmp_path, captions_file):
    with pytest.raises(SettingError, match=r"ends in \.jsonl"):
        prepare([str(captions_file)], tmp_path / "out.txt")
    before = captions_file.read_text()
    with pytest.raises(SettingError, match="one of the inputs"):
        prepare([str(captions_file)], f"{tmp_path}/./{captions_file.relative_to(tmp_path)}")
    with pytest.raises(SettingError, match="one of the inputs"):
        prepare([str(captions_file)], tmp_path / "mix.jsonl", mix={"path": f"{tmp_path}/mix.jsonl"})
    assert captions_file.read_text() == before


def test_letters_with_marks_are_letters(tmp_path):
    said = ["घर के बाहर एक कुत्ता खेल रहा है।", "Ein Mann fährt u\u0308ber die Straße.", "می‌خواهد"]
    (tmp_path / "c.jsonl").write_text(json.dumps({"captions": said}) + "\n", encoding="utf-8")
    prepare([str(tmp_path / "c.jsonl")], tmp_path / "out.jsonl", language="hi")
    assert texts_of(tmp_path / "out.jsonl") == [said[0], "Ein Mann fährt über die Straße.", said[2]]


def test_words_that_a_line_cuts_are_whole_where_the_text_has_them_whole_and_only_italics_lose_their_marks():
    text = "A dog sat near the win-\ndow, and a cat at another window of a well-\nknown house. The cat_and_dog slept, _all_ day."
    first, second = cut_sentences(text)
    assert first == "A dog sat near the window, and a cat at another window of a well-known house."
    assert second == "The cat_and_dog slept, all day."
    assert list(cut_sentences('He said-\n"what", in a pre-\n1900 house that was well-\n\tknown.')) == [
        'He said-"what", in a pre-1900 house that was well-known.'
    ]


def test_what_python_gives_wrong_is_an_error_and_one_path_is_one_input(tmp_path, captions_file):
    assert prepare(str(captions_file), tmp_path / "out.jsonl")["inputs"] == [str(captions_file)]
    with pytest.raises(SettingError, match="visual is nouns, likeness, none; 'nuons' came"):
        prepare(str(captions_file), tmp_path / "out.jsonl", visual="nuons")
    with pytest.raises(SettingError, match="the fewest and the most of a text; 4 came"):
        prepare(str(captions_file), tmp_path / "out.jsonl", words=(4,))


def test_sentences_of_another_language_are_not_judged_by_english_nouns(tmp_path):
    (tmp_path / "buch.txt").write_text("Der Mann stand vor dem alten Haus. Ein Hund lief über die Wiese.", encoding="utf-8")
    with pytest.warns(UserWarning, match="do not look it"), pytest.raises(DataError, match="nothing is left"):
        prepare([str(tmp_path / "buch.txt")], tmp_path / "out.jsonl", sentences=True)


def test_halves_of_characters_are_left_out(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"captions": ["a dog \\ud83d runs on grass", "a \\ud83d\\ude00 cat"]}\n')
    prepare([str(tmp_path / "c.jsonl")], tmp_path / "out.jsonl")
    assert texts_of(tmp_path / "out.jsonl") == ["a dog  runs on grass"]
