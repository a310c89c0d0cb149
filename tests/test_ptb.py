"""Compared with Stanford's tokenizer: its answers for lines of our own are in data/ptb_lines.tsv (caption, tab, tokens), and where Java is, it is
asked again. To add a line, write it there with any tokens, and take those that the test against Java shows."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capdec import ptb
from capdec.ptb import PUNCTUATION, tokenize

ROWS = (Path(__file__).parent / "data" / "ptb_lines.tsv").read_text(encoding="utf-8").rstrip("\n").split("\n")
LINES = dict(row.split("\t") for row in ROWS)


@pytest.mark.parametrize("line", LINES)
def test_a_line_has_the_tokens_that_java_gave(line):
    assert tokenize(line) == LINES[line]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's best-friend (dog) isn't here, is it?", "a man 's best-friend -lrb- dog -rrb- is n't here is it"),
        ('Two 10:30 a.m. clocks; $5 -- "quote" ... & #hash T-shirt/hat', "two 10:30 a.m. clocks $ 5 quote & #hash t-shirt/hat"),
        ("Café naïve — em–dash", "café naïve em dash"),
        ("don't can't gonna", "do n't ca n't gon na"),
        ("A man . A dog .", "a man a dog"),
        ("", ""),
    ],
)
def test_the_examples_of_the_evaluation(caption, tokens):
    assert tokenize(caption) == tokens


@pytest.mark.skipif(shutil.which("java") is None, reason="the reference needs Java")
def test_against_java_the_tokens_are_the_same():
    reference = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    # Java looks at how the next caption begins (see the head of ptb.py); after each line here comes what most captions begin with.
    found = reference.tokenize({line: [{"caption": line}, {"caption": "A photo."}] for line in LINES})
    assert {line: tokens for line, (tokens, _) in found.items()} == LINES


def test_spelling_is_kept_british():
    assert tokenize("A grey theatre in colour") == "a grey theatre in colour"


def test_rules_see_capitals_before_they_are_gone():
    assert tokenize("AT&T, Mass. and Plan C. The end") == "at&t mass. and plan c the end"
    assert tokenize("at&t, mass. and plan c. the end") == "at & t mass and plan c. the end"


@pytest.mark.parametrize("line", LINES)
def test_white_space_around_a_caption_changes_nothing_and_is_in_no_token(line):
    tokens = tokenize(line)
    assert tokenize(f" \t{line}\n ") == tokenize(line.strip()) == tokens == tokens.strip()
    assert not PUNCTUATION & set(tokens.split(" "))
    assert "  " not in tokens and "\t" not in tokens and "\n" not in tokens


@pytest.mark.parametrize("line", LINES)
def test_the_pieces_of_a_caption_have_the_tokens_of_the_whole(line):
    assert tokenize(line) == ptb._piece(line).rstrip()


def test_a_line_break_is_a_space():
    for space in "\n", "\r\n", "\u2028", "\v", "\t", "\u00a0":
        assert tokenize(f"A man's{space}dog.") == "a man 's dog"


def test_what_no_rule_knows_is_left_out_and_parts_words():
    assert tokenize("duck🦆pond \ud83d\x00 \ufffe") == "duck pond"


def test_a_very_long_word_takes_no_time():
    for part in "a", "a-", "a.", "1.", "'", "<a ", "&", "a@", "www.a.":
        assert tokenize(part * 5000) is not None


def test_it_imports_nothing_heavy():
    code = "import sys, capdec.ptb; print(sorted({'torch', 'numpy', 'tokenizers'} & sys.modules.keys()))"
    source = str(Path(ptb.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source})
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
