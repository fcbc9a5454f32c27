#!/bin/sh
# The models inside the package, from the corpora; `make models` sets the variables. Goes on where it was stopped.
set -eu
work=runs/shipped
mkdir -p $work/data/copies
made() { [ -f "$work/data/$1.jsonl" ]; }
made ravdess || serein corpus prepare ravdess "$RAVDESS" -o $work/data/ravdess.jsonl
made emodb || serein corpus prepare emodb "$EMODB" -o $work/data/emodb.jsonl
made cremad || serein corpus prepare cremad "$CREMAD" --partial -o $work/data/cremad.jsonl
made nemo || serein corpus prepare nemo "$NEMO" -o $work/data/nemo.jsonl
made urdu || serein corpus prepare csv "$URDU" --language ur -o $work/data/urdu.jsonl
made librispeech || serein corpus prepare csv "$LIBRISPEECH" --language en -o $work/data/librispeech.jsonl
# half of LibriSpeech's speakers teach neutral speech, the other half are never seen
python tools/neutral_halves.py $work/data/librispeech.jsonl $work/data/neutral.jsonl $work/data/unseen-neutral.jsonl
for corpus in ravdess emodb cremad urdu nemo neutral; do
	case $corpus in nemo) copies=1 speeds=1 ;; neutral) copies=2 speeds=1 ;; *) copies=3 speeds=2 ;; esac
	made copies/$corpus || serein corpus augment $work/data/$corpus.jsonl -o $work/data/copies/$corpus.jsonl \
		--copies $copies --speeds $speeds --noises "$NOISES" --rooms "$ROOMS" --simulated-rooms 64 --jobs "$(nproc)"
done
made all || serein corpus merge $work/data/copies/*.jsonl -o $work/data/all.jsonl # named as their corpora
python tools/shipped_model.py default --recipe recipes/default.yaml --data $work/data/all.jsonl \
	--other "other speakers=$work/data/unseen-neutral.jsonl" \
	${UNKNOWN_NOISES:+--noises "$UNKNOWN_NOISES"} ${UNKNOWN_ROOMS:+--rooms "$UNKNOWN_ROOMS"} \
	--licence "urdu=for research purposes (Latif et al. 2018)" ${WHISPER:+--set "backbone.source=$WHISPER"}
# those corpora alone whose licences allow commercial use; a temperature fitted to them makes it too sure of others
made free || serein corpus merge $work/data/copies/emodb.jsonl $work/data/copies/cremad.jsonl $work/data/copies/neutral.jsonl -o $work/data/free.jsonl
python tools/shipped_model.py free --recipe recipes/free.yaml --data $work/data/free.jsonl --speakers-alone --uncalibrated \
	--other "other speakers=$work/data/unseen-neutral.jsonl" --other "RAVDESS=$work/data/ravdess.jsonl" --other "URDU=$work/data/urdu.jsonl" \
	${UNKNOWN_NOISES:+--noises "$UNKNOWN_NOISES"} ${UNKNOWN_ROOMS:+--rooms "$UNKNOWN_ROOMS"} ${WHISPER:+--set "backbone.source=$WHISPER"}
# they learn from what the default model's trainings say of the same folds
for name in small tiny; do
	set --
	if [ "$name" = small ] && [ -n "$WHISPER" ]; then set -- --set "backbone.source=$WHISPER"; fi
	python tools/shipped_model.py $name --recipe recipes/$name.yaml --data $work/data/all.jsonl --teacher default --speakers-alone \
		--other "other speakers=$work/data/unseen-neutral.jsonl" \
		${UNKNOWN_NOISES:+--noises "$UNKNOWN_NOISES"} ${UNKNOWN_ROOMS:+--rooms "$UNKNOWN_ROOMS"} \
		--licence "urdu=for research purposes (Latif et al. 2018)" "$@"
done
