#!/bin/sh
# German captions from an English backbone: docs/languages.md. Told from English captions, saying German ones of the same photos.
#   sh examples/german.sh DATA OUT
# DATA has text/german_{train,calibration}.jsonl, text/flickr_all_train.jsonl, text/flickr8k_calibration.jsonl and flickr8k/calibration-000000.tar.
set -eu
data=$1 out=$2
sources=$data/text/flickr_all_train.jsonl
mkdir -p "$out/photos"
tar xf "$data/flickr8k/calibration-000000.tar" -C "$out/photos" # a shard holds English captions: the German ones are a file beside the photos

capdec prepare "$data/text/german_train.jsonl" --recase --output "$out/german_train.jsonl" # "zwei hunde kämpfen" -> "Zwei Hunde kämpfen"

train() { # OUTPUT TEXT OPTION...
    folder=$1 text=$2
    shift 2
    capdec train --recipe recipes/german.toml --output "$folder" --set "captions={\"path\": \"$text\", \"dataset\": \"flickr30k+flickr8k\"}" \
        --set "sources={\"path\": \"$sources\", \"dataset\": \"flickr30k+flickr8k\"}" "$@"
}
train "$out/german" "$out/german_train.jsonl"
train "$out/noise" "$out/german_train.jsonl" --set 'bridges=[{"name": "gaussian_noise", "target_cosine": 0.65}]' --set decoding.rerank=none --set decoding.candidates=0
train "$out/careless" "$data/text/german_train.jsonl"

score() { # CAPTIONER OUTPUT REFERENCES OPTION...
    captioner=$1 folder=$2 references=$3
    shift 3
    capdec evaluate "$captioner" --dataset "$references" --images "$out/photos" --split val --name flickr8k \
        --metrics coco_scores,meteor,diversity,casing --output "$folder" "$@"
}
german=$data/text/german_calibration.jsonl
score "$out/german" "$out/scores/german" "$german" --memory "$out/german_train.jsonl" --memory-name flickr30k+flickr8k --memory-sources "$sources"
score "$out/german" "$out/scores/beam" "$german" --rerank none
score "$out/german" "$out/scores/consensus" "$german" --rerank consensus
score "$out/noise" "$out/scores/noise" "$german"
score "$out/careless" "$out/scores/careless" "$german"
for other in beam consensus noise careless; do
    capdec compare "$out/scores/german" "$out/scores/$other" --metrics coco_scores,meteor,diversity,casing
done

# For scale: the embedded English captioner on the same photos, against English references.
cut -d '"' -f 4 "$german" | sed 's/.*/"image_id": "&"/' | grep -F -f - "$data/text/flickr8k_calibration.jsonl" > "$out/english.jsonl"
score flickr "$out/scores/english" "$out/english.jsonl" --memory "$data/text/flickr8k_train.jsonl" --memory-name flickr8k
capdec report "$out/scores/german" "$out/scores/beam" "$out/scores/noise" "$out/scores/careless" --output "$out/report"
