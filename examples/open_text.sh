#!/bin/sh
# Captions in the manner of a book: docs/open-text.md. Sentences of the King James Bible, half and half with plain captions.
#   sh examples/open_text.sh DATA OUT [BOOK.txt]
# DATA has text/flickr8k_train.jsonl and flickr8k/dev-000000.tar. BOOK is any text, its paragraphs between blank lines; without one the Bible is printed
# by the program of Debian's package bible-kjv. JUDGE is the backbone that judges.
set -eu
data=$1 out=$2 book=${3:-$2/kjv.txt}
mkdir -p "$out"
[ -f "$book" ] || bible -f gen1:1-rev22:21 > "$book"

capdec prepare "$book" --sentences --output "$out/book.jsonl"
capdec prepare "$book" --sentences --mix "$data/text/flickr8k_train.jsonl" --share 0.5 --output "$out/mixed.jsonl"

capdec train "$out/mixed.jsonl" --recipe recipes/flickr.toml --output "$out/captioner"

# The same captioner, with the book's sentences as the memory that a photo is told from.
python - "$out" <<'END'
import json, sys
from capdec import Captioner

out = sys.argv[1]
captioner = Captioner.load(f"{out}/captioner")
sentences = [text for line in open(f"{out}/book.jsonl", encoding="utf-8") for text in json.loads(line)["captions"]]
captioner.bridges[1].memory.rows = captioner.backbone.encode_text(sentences).bfloat16()
captioner.save(f"{out}/told_from_the_book")
END

# Beside all plain captions, as a style that is asked for by its name.
capdec train "$data/text/flickr8k_train.jsonl" --style "book=$out/book.jsonl" --start flickr --steps 1000 --dtype bfloat16 --set training.batch=48 \
    --output "$out/named"

cat > "$out/evaluation.toml" <<END
[evaluation]
metrics = ["coco_scores", "clip_score", "diversity", { name = "style", style = "$out/book.jsonl", plain = "$data/text/flickr8k_train.jsonl" }]
END
for captioner in flickr "$out/captioner" "$out/told_from_the_book"; do
    capdec evaluate "$captioner" --dataset "$data/flickr8k/dev-000000.tar" --split val --name flickr8k --recipe "$out/evaluation.toml" \
        --memory "$out/mixed.jsonl" --judge "${JUDGE:-judge}" --output "$out/dev/$(basename "$captioner")"
done
capdec evaluate "$out/named" --style book --beams 24 --candidates 24 --score-weight 0.05 --dataset "$data/flickr8k/dev-000000.tar" --split val --name flickr8k \
    --recipe "$out/evaluation.toml" --memory "$out/book.jsonl" --judge "${JUDGE:-judge}" --output "$out/dev/named"
capdec compare "$out/dev/captioner" "$out/dev/flickr"
capdec compare "$out/dev/told_from_the_book" "$out/dev/flickr"
capdec report "$out/dev/told_from_the_book" "$out/dev/captioner" "$out/dev/flickr" --output "$out/report"
