#!/bin/bash
# Say nothing you are not sure of: docs/confidence.md, made again. Usage: examples/confidence.sh DATA OUTPUT [JUDGE]
# DATA holds captioned photos as WebDataset shards: flickr8k/calibration-000000.tar and flickr8k/dev-000000.tar. JUDGE is a backbone's folder.
set -euo pipefail
data=$1 output=$2 judge=${3:-judge}

# A copy of the embedded captioner, to be calibrated in a folder of one's own. Any captioner's folder will do.
mkdir -p "$output"
cp -r "$(python -c 'from capdec.captioner import embedded; print(embedded()["flickr"])')" "$output/captioner"

# How sure may it be? Learned on photos that neither it nor its backbone learned from.
capdec calibrate "$output/captioner" --dataset "$data/flickr8k/calibration-000000.tar" --split val --name flickr8k --precision 0.5

# What that is worth, on photos that had no part in it.
capdec evaluate "$output/captioner" --dataset "$data/flickr8k/dev-000000.tar" --split val --name flickr8k --judge "$judge" --output "$output/dev"
capdec coverage "$output/dev"

# Captions, and nothing where it is unsure ("caption": null, "unsure": true).
mkdir -p "$output/photos"
tar -xf "$data/flickr8k/dev-000000.tar" -C "$output/photos"
capdec caption "$output/photos" --captioner "$output/captioner" --sure --output "$output/captions.jsonl"
