#!/usr/bin/env bash
# Romantic and humorous captions, learned in six ways from text alone: docs/style.md.
#   examples/style.sh DATA OUT
# DATA has text/flickr8k_train.jsonl, text/flickrstyle_{romantic,humorous}_{train,dev}.jsonl and flickr8k/dev-000000.tar. JUDGE is the backbone that judges.
set -euo pipefail
data=$1 out=$2
plain=$data/text/flickr8k_train.jsonl
mkdir -p "$out/photos"
tar -xf "$data/flickr8k/dev-000000.tar" -C "$out/photos"

# One captioner, several styles and lengths, asked for by name.
capdec train "$plain" --style "romantic=$data/text/flickrstyle_romantic_train.jsonl" --style "humorous=$data/text/flickrstyle_humorous_train.jsonl" \
    --sources "$plain" --recipe recipes/styles.toml --output "$out/styles"
capdec caption "$out/photos" --captioner "$out/styles" --style romantic --length short --output "$out/romantic.jsonl"

score() { # STYLE NAME OPTION...
    capdec evaluate "$out/$2" --recipe "$out/$1.toml" --dataset "$data/text/flickrstyle_$1_dev.jsonl" --images "$out/photos" --name flickr8k --split val \
        --beams 24 --candidates 24 --score-weight 0.05 --judge "${JUDGE:-judge}" --output "$out/dev/$1/$(basename "$2")" "${@:3}"
}

for style in romantic humorous; do
    text=$data/text/flickrstyle_${style}_train.jsonl
    adapt=(--sources "$plain" --start flickr --dtype bfloat16 --set training.batch=48)
    # From the style's text alone; told from factual captions of the same photos; and an existing captioner that changes: all of it, its mapper, by LoRA.
    capdec train "$text" --recipe recipes/flickr.toml --output "$out/$style-alone"
    capdec train "$text" --recipe recipes/flickr.toml --sources "$plain" --output "$out/$style-sources"
    capdec train "$text" "${adapt[@]}" --steps 400 --output "$out/$style-all"
    capdec train "$text" "${adapt[@]}" --steps 400 --learn mapper --output "$out/$style-mapper"
    capdec train "$text" "${adapt[@]}" --steps 1000 --learn lora --set training.lora_rank=16 --set training.learning_rate=0.003 --output "$out/$style-lora"

    cat > "$out/$style.toml" <<END
[evaluation]
metrics = ["coco_scores", "clip_score", "diversity", "unseen_nouns", { name = "style", style = "$text", plain = "$plain" }]
END
    for way in alone sources all mapper lora; do score "$style" "$style-$way"; done
    score "$style" styles --style "$style"
    capdec compare "$out/dev/$style/styles" "$out/dev/$style/$style-all"
done

# Lengths, in the plain style.
for length in short medium long; do
    capdec evaluate "$out/styles" --length "$length" --beams 5 --candidates 5 --score-weight 0.5 --dataset "$data/flickr8k/dev-000000.tar" --split val --name flickr8k --judge "${JUDGE:-judge}" \
        --output "$out/dev/$length"
done
