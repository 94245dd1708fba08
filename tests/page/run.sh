#!/usr/bin/env bash
# Tests the status page in a headless Chromium. Builds the program unless SYNCHROMESH_BIN names one.
# With --screenshots it takes those of docs/screenshots instead; other arguments go to pytest.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
readonly venv=$root/target/python-page

if ! command -v chromium >/dev/null; then
    echo "page/run: there is no chromium: install it (apt-get install chromium)" >&2
    exit 1
fi

"$root/scripts/python-env.sh" "$venv" "$here/requirements.txt"

if [[ -z ${SYNCHROMESH_BIN-} ]]; then
    cargo build --quiet --manifest-path "$root/Cargo.toml" --target-dir "$root/target"
    SYNCHROMESH_BIN=$root/target/debug/synchromesh
fi
export SYNCHROMESH_BIN
# Nothing is left in the source tree.
export PYTHONDONTWRITEBYTECODE=1
if [[ ${1-} == --screenshots ]]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        --requirement "$here/screenshots.txt"
    exec "$venv/bin/python" "$here/screenshots.py" "$root/docs/screenshots"
fi
exec "$venv/bin/python" -m pytest -p no:cacheprovider "$here" "$@"
