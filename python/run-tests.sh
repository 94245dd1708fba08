#!/usr/bin/env bash
# Checks the Python package: style and types, then its tests, with current versions of what it needs and with the oldest.
# Builds the daemon unless SYNCHROMESH_BIN names one. Arguments go to pytest.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
readonly here root

# Nothing is left in the source tree.
export PYTHONDONTWRITEBYTECODE=1

# Makes an environment with the packages of a list, and with ours as it is now: environment NAME PYTHON.
environment() {
    local venv=$root/target/python-$1 list=$here/tests/requirements-$1.txt wanted
    wanted=$({ cat "$list" && "$2" -VV; } | sha256sum)
    if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$wanted" ]]; then
        # The stamp is written last, so an environment that is only half made is made again.
        rm -rf "$venv"
        "$2" -m venv "$venv" || {
            echo "run-tests: $2 cannot make an environment: install python3-venv" >&2
            exit 1
        }
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement "$list"
        echo "$wanted" >"$venv/stamp"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
        --force-reinstall "$here"
}

# The first of these Pythons whose version is at least 3.LEAST and below 3.BELOW: first_of LEAST BELOW PYTHON ...
first_of() {
    local python
    for python in "${@:3}"; do
        if "$python" -c "import sys; sys.exit(not (3, $1) <= sys.version_info < (3, $2))" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

if [[ -z ${SYNCHROMESH_BIN-} ]]; then
    cargo build --quiet --manifest-path "$root/Cargo.toml" --target-dir "$root/target"
    SYNCHROMESH_BIN=$root/target/debug/synchromesh
fi
export SYNCHROMESH_BIN

current=$(first_of 11 15 python3 python3.14 python3.13 python3.12 python3.11)
oldest=$(first_of 9 12 python3 python3.11 python3.10 python3.9)
readonly current oldest
cd "$here"
if [[ -n $current ]]; then
    environment current "$current"
    readonly tools=$root/target/python-current/bin
    "$tools/python" -m ruff check --quiet --no-cache
    "$tools/python" -m ruff format --quiet --no-cache --check
    "$tools/python" -m mypy --cache-dir="$root/target/python-current/mypy"
    "$tools/python" -m pytest "$@"
else
    echo "SKIPPED: style, types, and tests with current versions: they need Python 3.11 to 3.14, and none is here"
fi
if [[ -n $oldest ]]; then
    environment oldest "$oldest"
    "$root/target/python-oldest/bin/python" -m pytest "$@"
else
    echo "SKIPPED: tests with the oldest versions: they have wheels for Python 3.9 to 3.11, and none of these is here"
fi
