#!/usr/bin/env bash
# Lays out all that a package has besides the program: units, configuration, manual pages and so on.
#   packaging/stage.sh FOLDER [SHARE]
# FOLDER becomes the root of a file system; what packages of every kind install is decided here. SHARE
# is what packaging/manual.rs made (manual pages, completions); without it, these are left out, as where
# one compiles for another machine.
set -euo pipefail

root=${1:?usage: stage.sh FOLDER [SHARE]}
share=${2-}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

put() { # [FILE...] FOLDER: files that nobody runs
    (($# > 1)) || return 0
    install -D -m 644 -t "$root/${*: -1}" "${@:1:$#-1}"
}

# Copies a folder's files, if there are any, with their places in it.
put_all() { # FROM TO
    local file
    [[ -d $1 ]] || return 0
    while IFS= read -r -d '' file; do
        put "$1/$file" "$2/$(dirname "$file")"
    done < <(cd "$1" && find . -type f -printf '%P\0')
}

shopt -s nullglob
put systemd/*.service systemd/*.socket usr/lib/systemd/system
put_all systemd/sysusers.d usr/lib/sysusers.d
put_all systemd/tmpfiles.d usr/lib/tmpfiles.d
# Not in force until somebody links them to /etc/systemd/system/synchromesh.service.d.
put_all systemd/drop-ins usr/share/synchromesh/systemd

put config/synchromesh.yaml etc/synchromesh
put config/*.schema.json usr/share/synchromesh
put_all config/prometheus usr/share/synchromesh/prometheus
put_all config/grafana usr/share/synchromesh/grafana

put README.md docs/*.md usr/share/doc/synchromesh
put config/recipe.example.yaml usr/share/doc/synchromesh/examples
if [[ -n $share ]]; then
    put_all "$share" usr/share
    find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +
fi
