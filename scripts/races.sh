#!/bin/sh
# Builds the addon with the thread sanitizer in build-tsan and runs tests/native/races.ts on it: kernels, training, graphs, worker threads.
# Node's own code is not instrumented, so reports without a frame of the addon are about it and are not counted; nothing else is left out.
# ANNEAL_ISAS are the instruction sets to compile (default: baseline, which takes the same ways through pool and stream). Usage: scripts/races.sh [part...]
set -eu
cd "$(dirname "$0")/.."

flags="-O1 -g1 -fsanitize=thread -fno-omit-frame-pointer"
npx cmake-js configure --out build-tsan > /dev/null
cmake build-tsan -DCMAKE_BUILD_TYPE=Sanitize -DCMAKE_CXX_FLAGS="$flags" -DANNEAL_ISAS="${ANNEAL_ISAS:-baseline}" > /dev/null
cmake --build build-tsan --target anneal --parallel "$(nproc)"

addon="$PWD/build-tsan/Release/anneal.node"
[ -e "$addon" ] || addon="$PWD/build-tsan/anneal.node"
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
TSAN_OPTIONS="log_path=$reports/report report_signal_unsafe=0 exitcode=0 history_size=4" ANNEAL_ADDON="$addon" \
  LD_PRELOAD="$(g++ -print-file-name=libtsan.so)" node --import tsx tests/native/races.ts "$@"
awk 'BEGIN { RS = "==================\n" } /anneal\.node/ { print; found++ } END { print found + 0, "reports about the addon"; exit found > 0 }' "$reports"/* /dev/null
