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

# The first Python that has wheels of the oldest versions.
old_python() {
    local python
    for python in python3 python3.11 python3.10 python3.9; do
        if "$python" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 12))' 2>/dev/null; then
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

environment current python3
cd "$here"
readonly tools=$root/target/python-current/bin
"$tools/ruff" check --quiet --no-cache
"$tools/ruff" format --quiet --no-cache --check
"$tools/mypy" --cache-dir="$root/target/python-current/mypy"
"$tools/python" -m pytest "$@"

oldest=$(old_python)
if [[ -n $oldest ]]; then
    environment oldest "$oldest"
    "$root/target/python-oldest/bin/python" -m pytest "$@"
else
    echo "skipped: the oldest versions have wheels for Python 3.9 to 3.11, and none of these is here"
fi
