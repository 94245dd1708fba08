#!/usr/bin/env bash
# Builds the C++ examples and runs them against a daemon: once for F32 and once for BF16 the results
# of each task are compared with what the weights and masks say; then all that can go wrong is tried,
# under the address and undefined behaviour sanitizers.
# Builds the program unless SYNCHROMESH_BIN names one. Needs cmake, a C++ compiler and Python 3; where
# the first two are missing and cannot be installed, it fails, or skips all if SYNCHROMESH_SKIP_CPP=1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root

missing() {
    local tool
    for tool in cmake make "${CXX:-c++}" "${CC:-cc}"; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
}
if [[ -n $(missing) ]]; then
    # Only as root, and without a question.
    said=$({ apt-get update -q && apt-get install -qy cmake make g++; } 2>&1) || echo "$said" >&2
fi
if [[ -n $(missing) ]]; then
    if [[ ${SYNCHROMESH_SKIP_CPP-} == 1 ]]; then
        echo "examples/cpp: SKIPPED, as there is no" $(missing) "here" >&2
        exit 0
    fi
    echo "examples/cpp: there is no" $(missing) "here; SYNCHROMESH_SKIP_CPP=1 skips these tests" >&2
    exit 1
fi

cd "$root"
cargo rustc --quiet --locked --lib --crate-type cdylib,staticlib -- \
    -C link-arg=-Wl,-soname,libsynchromesh.so.0
if [[ -z ${SYNCHROMESH_BIN-} ]]; then
    cargo build --quiet --locked
    SYNCHROMESH_BIN=$root/target/debug/synchromesh
fi

readonly work=$(mktemp -d)
daemon=
stop() {
    if [[ -n $daemon ]]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    daemon=
}
trap 'stop; rm -rf "$work"' EXIT

# The library as it is installed: by its soname.
mkdir "$work/lib"
cp "$root/target/debug/libsynchromesh.so" "$work/lib/libsynchromesh.so.0"
ln -s libsynchromesh.so.0 "$work/lib/libsynchromesh.so"
echo "exported by the library, beside what is documented:"
nm -D --defined-only "$work/lib/libsynchromesh.so" | awk '{print $3}' | sort >"$work/exported"
grep -o '\bsm_[a-z_]*(' "$root/include/synchromesh.h" | tr -d '(' | sort -u >"$work/declared"
diff "$work/declared" "$work/exported"
echo "nothing"

configure() { # folder, further options
    cmake -S "$here" -B "$work/$1" -DSYNCHROMESH_LIB_DIR="$work/lib" "${@:2}" >"$work/cmake.log" ||
        { cat "$work/cmake.log"; return 1; }
    cmake --build "$work/$1" >"$work/cmake.log" || { cat "$work/cmake.log"; return 1; }
}
configure build
configure sanitized -DSYNCHROMESH_SANITIZE=ON
"$work/build/plain_c"
"${CC:-cc}" -std=c11 -I "$root/include" "$here/plain_c.c" "$root/target/debug/libsynchromesh.a" \
    -lpthread -ldl -lm -Wl,--gc-sections -o "$work/static_c"
"$work/static_c"

serve() { # folder
    rm -f "$1/attach.sock"
    "$SYNCHROMESH_BIN" serve --config "$1/synchromesh.yaml" 2>"$1/daemon.log" &
    daemon=$!
    for _ in {1..600}; do
        [[ -S $1/attach.sock ]] && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    echo "the daemon does not start:" && cat "$1/daemon.log"
    return 1
}

switch() { # folder, task
    "$SYNCHROMESH_BIN" switch "$2" --control "$1/control.sock" --json >"$1/switch.json"
}

prepare() { # folder, type of the weights
    mkdir "$1"
    python3 "$here/model.py" "$1" "$2"
    "$SYNCHROMESH_BIN" pack "$1/recipe.yaml" >"$1/pack.log" 2>&1 || { cat "$1/pack.log"; return 1; }
    cat >"$1/synchromesh.yaml" <<EOF
models: [{bundle: $1/cpp.mesh, pool_bytes: 1MiB}]
listen: {control: $1/control.sock, attach: $1/attach.sock}
lock_memory: false
state_dir: $1
EOF
    serve "$1"
}

# Runs matmul while tasks are switched; each line must be what the weights and the mask say.
matmul() { # folder
    local round=0 task tasks=(day night day night) pid
    "$work/sanitized/matmul" "$1/attach.sock" layer.weight ${#tasks[@]} >"$1/lines" &
    pid=$!
    for task in "${tasks[@]}"; do
        switch "$1" "$task"
        round=$((round + 1))
        for _ in {1..600}; do
            (($(wc -l <"$1/lines") >= round)) && break
            sleep 0.1
        done
        echo "task $task: checksum $(sed -n "s/^$task //p" "$1/expected"), largest" >>"$1/wanted"
    done
    wait "$pid"
    cat "$1/lines"
    sed 's/^generation [0-9]*, //; s/largest .*/largest/' "$1/lines" | diff "$1/wanted" -
}

errors() { # folder
    local pid
    switch "$1" night
    "$work/sanitized/errors" "$1/attach.sock" layer.weight bias "$daemon" &
    pid=$!
    # It kills the daemon, and attaches to the next one; unless it fails before.
    wait -n "$daemon" "$pid" 2>/dev/null || true
    if ! kill -0 "$daemon" 2>/dev/null; then
        serve "$1"
        switch "$1" day
    fi
    wait "$pid"
}

for dtype in F32 BF16; do
    echo "$dtype:"
    prepare "$work/$dtype" "$dtype"
    matmul "$work/$dtype"
    stop
done
serve "$work/F32"
errors "$work/F32"
