#!/usr/bin/env bash
# Runs the programs of docs/control-plane.md against a daemon, each as a user of that language would: with the stock gRPC
# library and its defaults. Python's grpcio in two versions, Debian's C++ gRPC, and Node's @grpc/grpc-js.
# Builds the program unless SYNCHROMESH_BIN names one. A library that cannot be installed here is named and skipped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
cd "$root"

if [[ -z ${SYNCHROMESH_BIN-} ]]; then
    cargo build --quiet --locked
    SYNCHROMESH_BIN=$root/target/debug/synchromesh
fi

readonly work=$(mktemp -d)
daemon=
stop() {
    [[ -z $daemon ]] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT

# The one program in a language that the page has.
snippet() { # LANGUAGE
    awk -v begin="\`\`\`$1" '$0 == begin { inside = 1; next } $0 == "```" { inside = 0 } inside' docs/control-plane.md
}

serve() {
    python3 examples/cpp/model.py "$work" F32
    "$SYNCHROMESH_BIN" pack "$work/recipe.yaml" >"$work/pack.log" 2>&1 || { cat "$work/pack.log"; return 1; }
    cat >"$work/synchromesh.yaml" <<YAML
models: [{bundle: $work/cpp.mesh, pool_bytes: 1MiB}]
listen: {control: $work/control.sock, attach: $work/attach.sock}
lock_memory: false
state_dir: $work
YAML
    "$SYNCHROMESH_BIN" serve --config "$work/synchromesh.yaml" 2>"$work/daemon.log" &
    daemon=$!
    for _ in {1..600}; do
        [[ -S $work/attach.sock ]] && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    echo "the daemon does not start:" && cat "$work/daemon.log"
    return 1
}

# A program switches between tasks and names the new generation, and reports an unknown task.
check() { # NAME COMMAND ...
    local name=$1 task generation before=0
    shift
    for task in day night day; do
        generation=$(timeout 60 "$@" "$work/control.sock" "$task")
        generation=${generation#generation }
        ((generation > before)) || { echo "$name: generation $generation after $before"; return 1; }
        before=$generation
    done
    if timeout 60 "$@" "$work/control.sock" submarine 2>"$work/refused"; then
        echo "$name: an unknown task was switched to"
        return 1
    fi
    grep -q submarine "$work/refused" || { echo "$name: an unknown task is not named"; cat "$work/refused"; return 1; }
    echo "$name: switched"
}

check_python() { # VERSIONS
    local venv=$root/target/clients-$1
    grep -E '^(grpcio|numpy|protobuf)==' "$root/python/tests/requirements-$1.txt" >"$work/requirements.txt"
    "$root/scripts/python-env.sh" "$venv" "$work/requirements.txt"
    snippet python >"$work/switch_task.py"
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$root/python/src check "python ($1 grpcio)" "$venv/bin/python" "$work/switch_task.py"
}

check_cpp() {
    local tool missing=()
    for tool in grpc_cpp_plugin protoc c++ pkg-config; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    pkg-config --exists grpc++ protobuf 2>/dev/null || missing+=(libraries)
    if ((${#missing[@]})); then
        { apt-get update -q && apt-get install -qy --no-install-recommends \
            g++ libgrpc++-dev libprotobuf-dev pkg-config protobuf-compiler protobuf-compiler-grpc; } >"$work/apt.log" 2>&1 ||
            { echo "SKIPPED: C++: gRPC cannot be installed here"; tail -1 "$work/apt.log"; return 0; }
    fi
    snippet cpp >"$work/switch_task.cpp"
    protoc -Iproto --cpp_out="$work" --grpc_out="$work" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \
        synchromesh/v1/task_service.proto
    # shellcheck disable=SC2046
    c++ -std=c++17 -I"$work" "$work/switch_task.cpp" "$work"/synchromesh/v1/*.cc \
        $(pkg-config --cflags --libs grpc++ protobuf) -o "$work/switch_task"
    check "C++ ($(pkg-config --modversion grpc++))" "$work/switch_task"
}

check_node() {
    if ! command -v npm >/dev/null; then
        { apt-get update -q && apt-get install -qy --no-install-recommends npm; } >"$work/apt.log" 2>&1 ||
            { echo "SKIPPED: JavaScript: Node cannot be installed here"; tail -1 "$work/apt.log"; return 0; }
    fi
    npm install --prefix "$work/node" --silent --no-audit --no-fund "@grpc/grpc-js@1.14.7" "@grpc/proto-loader@0.8.1" \
        >"$work/npm.log" 2>&1 || { echo "SKIPPED: JavaScript: its gRPC cannot be installed here"; cat "$work/npm.log"; return 0; }
    snippet js >"$work/switch_task.js"
    NODE_PATH=$work/node/node_modules check "JavaScript" node "$work/switch_task.js"
}

serve
check_python oldest
check_python current
check_cpp
check_node
