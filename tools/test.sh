#!/bin/sh
# All tests. The seeds of the simulation run beside pytest on what the machine has left over (nice 19): unit tests come
# first, and integration tests mostly wait for services. SEEDS=… chooses how many. Ctrl-C or a failure ends both.
set -u
cd "$(dirname "$0")/.."
bin=.venv/bin
log=.cache/simulation-seeds.log
seeds=${SEEDS:-10000}

mkdir -p .cache
echo "test: $seeds seeds of the simulation run in the background, their outcome comes at the end"
nice -n 19 "$bin/fairlane" sim --seeds "$seeds" >"$log" 2>&1 &
simulation=$!
trap 'kill "$simulation" 2>/dev/null; wait "$simulation" 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$bin/python" -m pytest tests || exit $?
echo "test: waiting for the rest of the seeds"
wait "$simulation"
outcome=$?
cat "$log"
exit "$outcome"
