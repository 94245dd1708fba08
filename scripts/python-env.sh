#!/usr/bin/env bash
# Makes a Python environment with what a requirements file lists, unless it is there already:
#   python-env.sh ENVIRONMENT REQUIREMENTS
set -euo pipefail

readonly venv=$1 requirements=$2
readonly stamp=$venv/requirements.sha256

# What the environment was made from: the packages and the interpreter.
wanted=$({ cat "$requirements" && python3 -VV; } | sha256sum)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    # The stamp is written last, so an environment that is only half made is made again.
    rm -rf "$venv"
    python3 -m venv "$venv" || {
        echo "python-env: python3 cannot make an environment: install python3-venv" >&2
        exit 1
    }
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        --requirement "$requirements"
    echo "$wanted" >"$stamp"
fi
