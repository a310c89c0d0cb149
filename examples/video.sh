#!/bin/bash
# Videos: clips made from captioned photos, told and scored, and the figures of docs/video.md again.
#
#   pip install 'capdec[video]'
#   examples/video.sh DATA OUTPUT        DATA/flickr8k/{calibration,dev}-000000.tar: WebDataset shards of photos with their captions
set -eu
data=$1 output=$2
here=$(dirname "$0")

# Frames and pooling are chosen on the one and scored on the other; 25 minutes each on one core.
python "$here/../benchmarks/video.py" "$data/flickr8k/calibration-000000.tar" "$output/calibration"
python "$here/../benchmarks/video.py" "$data/flickr8k/dev-000000.tar" "$output/dev"

# Videos among photos: files, folders, patterns. "frames" says which captions are of a video.
capdec caption "$output"/dev/clips/000?.mp4 "$output/dev/halves/0000.mp4" --frames 8 --output "$output/captions.jsonl"
