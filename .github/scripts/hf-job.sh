#!/usr/bin/env bash
# Verify or evaluate a release in a job on the Hub.
# TASK      verify or eval
# TARGET    hf://org/name@revision
# FLAVOR    hardware; default cpu-upgrade
# EXAM_DATA the exam's questions, hf://datasets/org/name@revision/FILE, where the release names none on the Hub
# HF_TOKEN  pays for the job and reads the release
# shellcheck disable=SC2034 # for environment.sh
needs=setup # the job has its own llama.cpp
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
require TASK "verify or eval"
require TARGET "hf://org/name@revision"

"$MOE_RELEASE" jobs submit "$TASK" "$TARGET" --flavor "${FLAVOR:-cpu-upgrade}" ${EXAM_DATA:+--exam-data "$EXAM_DATA"} ${DRY_RUN:+--dry-run}
