"""German captions of our own against what a reader of German would count as words."""

import sys

import pytest

from capdec import ptb
from capdec.errors import MissingExtra, SettingError
from capdec.language import reads, tokenizer, tokens


def test_english_keeps_the_tokens_of_the_coco_evaluation():
    assert tokenizer("en") is ptb.tokenize and tokens("en").startswith("PTB")


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("Zwei Hunde kämpfen im Gras.", "zwei hunde kämpfen im gras"),
        ("ÄRGER auf der Straße!", "ärger auf der straße"),
        ("Ein Ma\u0308dchen", "ein mädchen"),  # the umlaut as two characters
        ("„Geht's gut?“, fragt ein ‚Mann‘ …", "geht s gut fragt ein mann"),
        ("Ein 3-jähriges Kind im weiß-blauen T-Shirt", "ein 3-jähriges kind im weiß-blauen t-shirt"),
        ("Straßen- und Autoverkehr – bei Nacht", "straßen- und autoverkehr bei nacht"),
        ("Er springt 2,5 m weit, 1.000 sehen zu.", "er springt 2,5 m weit 1.000 sehen zu"),
        ("Ein Ball, z.B. von Nike, usw.", "ein ball z.b von nike usw"),
        ("Der Spieler mit der Nr. 12.", "der spieler mit der nr 12"),
        ("Hunde am 3. Mai", "hunde am 3 mai"),
        ("ein schwarz/weißer Hund (links) & ein Kind", "ein schwarz weißer hund links ein kind"),
        ("Ein Hund , der läuft .", "ein hund der läuft"),
        ("", ""),
        ("...", ""),
    ],
)
def test_german_words_are_kept_whole_and_punctuation_is_left_out(caption, said):
    assert tokenizer("de")(caption) == said
    assert tokenizer("de")(said) == said, "tokens are their own tokens"


@pytest.mark.parametrize("language", ["German", "zh", "xx", ""])
def test_a_language_without_rules_is_refused_and_the_others_are_shown(language):
    with pytest.raises(SettingError, match="cs, de,"):
        tokenizer(language)


def test_without_sacremoses_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(MissingExtra, match=r"capdec\[eval\]"):
        tokenizer("nl")
    assert tokenizer("en")("A dog.") == "a dog"


def test_a_backbone_reads_english_unless_it_says_otherwise(tiny_captioner):
    assert reads(tiny_captioner.backbone, "en") and not reads(tiny_captioner.backbone, "de")
    tiny_captioner.backbone.languages = ("en", "de")
    assert reads(tiny_captioner.backbone, "de")
