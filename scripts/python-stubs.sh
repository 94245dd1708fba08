#!/usr/bin/env bash
# Generates the Python package's protobuf modules from proto/ and python/proto/; run it when a .proto file changes.
# With --check it changes nothing, and fails where the modules are not what the .proto files give; where no Python is
# that the generator has wheels for, it says so and checks nothing.
set -euo pipefail

# The oldest generator that has wheels for Python 3.11: what it writes, every later grpcio and protobuf can read, but
# not the other way round.
readonly packages=(grpcio-tools==1.51.3 grpcio==1.51.3 protobuf==4.21.12 'setuptools<81')

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly place=synchromesh/v1
readonly kept=$root/python/src/$place
readonly venv=$root/target/python-stubs
readonly stamp=$venv/packages

if (($# > 1)) || [[ ${1---check} != --check ]]; then
    echo "usage: ${0##*/} [--check]" >&2
    exit 2
fi

# The first Python that has wheels of the generator.
python=
for candidate in python3 python3.11 python3.10 python3.9 python3.8 python3.7; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 7) <= sys.version_info < (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
readonly python
if [[ -z $python ]]; then
    if (($#)); then
        echo "SKIPPED: python-stubs: the generator has wheels for Python 3.7 to 3.11, and none of these is here"
        exit 0
    fi
    echo "python-stubs: the generator has wheels for Python 3.7 to 3.11: install one of these" >&2
    exit 1
fi

wanted=$(echo "${packages[@]}" && "$python" -VV)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "${packages[@]}"
    echo "$wanted" >"$stamp"
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
generate() { # FOLDER FILE [ARGUMENT ...]
    "$venv/bin/python" -m grpc_tools.protoc -I"$1" --python_out="$out" --pyi_out="$out" "${@:3}" "$place/$2"
}
generate "$root/proto" task_service.proto --grpc_python_out="$out"
generate "$root/python/proto" rpc_error.proto

if (($#)); then
    diff --brief --recursive --exclude=__init__.py --exclude=__pycache__ "$kept" "$out/$place" || {
        echo "python-stubs: run scripts/python-stubs.sh: these modules are not what the .proto files give" >&2
        exit 1
    }
else
    cp "$out/$place"/* "$kept"
fi
