#!/bin/sh
# Builds the addon with the address and undefined-behaviour sanitizers in build-asan, and runs the native, tensor and operation tests and those of damaged files on it.
# The first report stops a test with its stack. Usage: scripts/sanitize.sh [vitest filter...]
# ANNEAL_ISAS narrows the instruction sets, for instance ANNEAL_ISAS="baseline;avx2".
set -eu
cd "$(dirname "$0")/.."

# -O1 instead of the release flags: the kernels would take a gigabyte of memory each to compile.
flags="-O1 -g1 -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
npx cmake-js configure --out build-asan
cmake build-asan -DCMAKE_BUILD_TYPE=Sanitize -DCMAKE_CXX_FLAGS="$flags" ${ANNEAL_ISAS:+-DANNEAL_ISAS="$ANNEAL_ISAS"}
cmake --build build-asan --target anneal --parallel "$(nproc)"

addon="$PWD/build-asan/Release/anneal.node"
[ -e "$addon" ] || addon="$PWD/build-asan/anneal.node"
runtime="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)"
# Node itself never frees everything, so leaks are not looked for; memory() does that in the tests.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export ANNEAL_ADDON="$addon"
[ $# -gt 0 ] || set -- tests/native tests/tensor tests/ops tests/fuzz tests/files/safetensors.test.ts tests/export/reader.test.ts
LD_PRELOAD="$runtime" npx vitest run --testTimeout 600000 "$@"
