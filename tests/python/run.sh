#!/usr/bin/env bash
# Tests the daemon and its bundles with programs that are not ours: Python's safetensors and grpcio.
# Builds the program unless SYNCHROMESH_BIN names one. Arguments go to pytest.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
readonly venv=$root/target/python-peers

"$root/scripts/python-env.sh" "$venv" "$here/requirements.txt"

if [[ -z ${SYNCHROMESH_BIN-} ]]; then
    cargo build --quiet --manifest-path "$root/Cargo.toml" --target-dir "$root/target"
    SYNCHROMESH_BIN=$root/target/debug/synchromesh
fi
export SYNCHROMESH_BIN
# Nothing is left in the source tree.
export PYTHONDONTWRITEBYTECODE=1
exec "$venv/bin/python" -m pytest -p no:cacheprovider "$here" "$@"
