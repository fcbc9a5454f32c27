#!/bin/sh
# The models inside the package, from the corpora; `make models` sets the variables. Goes on where it was stopped.
set -eu
work=runs/shipped
mkdir -p $work/data
made() { [ -f "$work/data/$1.jsonl" ]; }
made ravdess || serein corpus prepare ravdess "$RAVDESS" -o $work/data/ravdess.jsonl
made emodb || serein corpus prepare emodb "$EMODB" -o $work/data/emodb.jsonl
made cremad || serein corpus prepare cremad "$CREMAD" --partial -o $work/data/cremad.jsonl
made nemo || serein corpus prepare nemo "$NEMO" -o $work/data/nemo.jsonl
made urdu || serein corpus prepare csv "$URDU" -o $work/data/urdu.jsonl
made librispeech || serein corpus prepare csv "$LIBRISPEECH" -o $work/data/librispeech.jsonl
# half of LibriSpeech's speakers teach neutral speech, the other half are never seen
python tools/neutral_halves.py $work/data/librispeech.jsonl $work/data/neutral.jsonl $work/data/unseen-neutral.jsonl
for corpus in ravdess emodb cremad urdu nemo neutral; do
	case $corpus in nemo) copies=1 ;; neutral) copies=2 ;; *) copies=3 ;; esac
	made $corpus-copies || serein corpus augment $work/data/$corpus.jsonl -o $work/data/$corpus-copies.jsonl \
		--copies $copies --noises "$NOISES" --rooms "$ROOMS"
done
made all || serein corpus merge $work/data/ravdess-copies.jsonl $work/data/emodb-copies.jsonl \
	$work/data/cremad-copies.jsonl $work/data/urdu-copies.jsonl $work/data/nemo-copies.jsonl \
	$work/data/neutral-copies.jsonl -o $work/data/all.jsonl
python tools/shipped_model.py default --recipe recipes/default.yaml --data $work/data/all.jsonl \
	--other "LibriSpeech=$work/data/unseen-neutral.jsonl" \
	--licence "urdu=for research purposes (Latif et al. 2018)" ${WHISPER:+--set "backbone.source=$WHISPER"}
