#!/usr/bin/env bash
# Has systemd read the units, each drop-in by itself and all of them together, and measures how much
# of the machine a daemon that went astray could reach (0 nothing, 10 all).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../systemd"

if ! command -v systemd-analyze >/dev/null; then
    echo "skipped: no systemd-analyze here; the boot test does the same"
    exit 0
fi
version=$(systemd-analyze --version | awk 'NR == 1 { print $2 }')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Exposure times ten, and the drop-ins that are added.
verify() {
    local limit=$1 said
    shift
    rm -rf "${work:?}"/*
    mkdir "$work/synchromesh.service.d"
    cp synchromesh-*.socket "$work/"
    # The program need not be installed.
    sed 's#=/usr/bin/synchromesh#=/bin/true#' synchromesh.service >"$work/synchromesh.service"
    for name in "$@"; do
        cp "drop-ins/$name.conf" "$work/synchromesh.service.d/"
    done
    # A warning does not make it fail.
    said=$(systemd-analyze verify --man=no "$work/"*.service "$work/"*.socket 2>&1) || true
    [[ -z $said ]] || { echo "$said" >&2; return 1; }
    said=$(systemd-analyze security --offline=true --threshold="$limit" --no-pager "$work/synchromesh.service") ||
        { grep -E '^✗|Overall' <<<"$said" >&2; return 1; }
    echo "${*:-host}: exposure $(sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p' <<<"$said") of $((limit / 10)).$((limit % 10))"
}
verify 5
verify 10 gpu
verify 15 network
if ((${version%%[!0-9]*} >= 253)); then
    verify 5 notify-reload
    verify 20 gpu network notify-reload
else
    echo "notify-reload: systemd $version does not know it; the boot test verifies it"
fi
if command -v systemd-sysusers >/dev/null; then
    mkdir -p "$work/root/etc"
    said=$(systemd-sysusers --root="$work/root" - <sysusers.d/synchromesh.conf 2>&1) || { echo "$said" >&2; exit 1; }
    grep -q '^synchromesh:' "$work/root/etc/group"
fi
