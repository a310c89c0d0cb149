#!/bin/sh
# Gendered words of the training text made neutral, balanced or swapped, and what becomes of captions: docs/fairness.md.
#   sh examples/fairness.sh DATA OUT
# DATA has text/flickr8k_train.jsonl and flickr8k/dev-000000.tar. JUDGE is the backbone that judges.
set -eu
data=$1 out=$2
metrics=coco_scores,clip_score,diversity,gender_error
mkdir -p "$out"

for mode in neutral balanced swap; do
    capdec prepare "$data/text/flickr8k_train.jsonl" --gender "$mode" --output "$out/$mode.jsonl"
    capdec train "$out/$mode.jsonl" --recipe recipes/flickr.toml --output "$out/$mode" \
        --set "captions={\"path\": \"$out/$mode.jsonl\", \"dataset\": \"flickr8k\"}"
done

for captioner in flickr "$out/neutral" "$out/balanced" "$out/swap"; do
    capdec evaluate "$captioner" --dataset "$data/flickr8k/dev-000000.tar" --split val --name flickr8k --metrics "$metrics" \
        --judge "${JUDGE:-judge}" --output "$out/dev/$(basename "$captioner")"
done
for mode in neutral balanced swap; do
    capdec compare "$out/dev/$mode" "$out/dev/flickr" --metrics coco_scores,gender_error
done

# whom it calls an animal or a child, captions made neutral afterwards, and whether this eye sees gender at all
python benchmarks/fairness.py "$out"/dev/*
python benchmarks/fairness.py probe "$data/flickr8k/train-*.tar" "$data/flickr8k/dev-000000.tar"
