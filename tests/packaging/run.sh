#!/usr/bin/env bash
# Makes the Debian package and installs, uses, upgrades, rolls back, removes and purges it in a small
# system of its own (a change of root; nothing of this machine is touched). That system is kept below
# target/ for the next time.
# Needs root, mmdebstrap and Debian's packages. Builds the package unless SYNCHROMESH_DEB names one;
# SYNCHROMESH_SKIP_PACKAGE=1 skips all where the rest is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
cd "$root"

skip() {
    if [[ ${SYNCHROMESH_SKIP_PACKAGE-} == 1 ]]; then
        echo "tests/packaging: SKIPPED: $1" >&2
        exit 0
    fi
    echo "tests/packaging: $1; SYNCHROMESH_SKIP_PACKAGE=1 skips these tests" >&2
    exit 1
}
[[ $EUID == 0 ]] || skip "needs root"
wanted=()
for tool in mmdebstrap lintian; do
    command -v "$tool" >/dev/null || wanted+=("$tool")
done
if ((${#wanted[@]})); then
    { apt-get update -q && apt-get install -qy --no-install-recommends "${wanted[@]}"; } >/dev/null ||
        skip "there is no ${wanted[*]} here"
fi

if [[ -z ${SYNCHROMESH_DEB-} ]]; then
    packaging/deb.sh
    SYNCHROMESH_DEB=$(ls -t target/debian/synchromesh_*.deb | head -1)
fi
lintian --allow-root --fail-on error,warning "$SYNCHROMESH_DEB"

# The release that this machine has: the package needs its C library.
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
readonly release base=$root/target/packaging/base.tar
readonly stamp="$release systemd,man-db,bash-completion"
if [[ ! -f $base || $(cat "$base.stamp" 2>/dev/null) != "$stamp" ]]; then
    mkdir -p "$(dirname "$base")"
    rm -f "$base"
    mmdebstrap --quiet --variant=essential --dpkgopt=force-unsafe-io --include="${stamp#* }" \
        "$release" "$base"
    # Last, so that a system that is only half made is made again.
    echo "$stamp" >"$base.stamp"
fi

work=$(mktemp -d "$root/target/packaging/work.XXXXXX")
readonly work
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/system" "$work/package"
tar -C "$work/system" -xf "$base"
mkdir "$work/system/test"
cp "$SYNCHROMESH_DEB" "$work/system/test/1.deb"
cp "$here/checks.sh" "$work/system/test/"
# Weights and masks for a bundle, which the installed program will pack.
python3 examples/cpp/model.py "$work/system/test" F32

# Later versions, whose default configuration differs.
dpkg-deb -R "$SYNCHROMESH_DEB" "$work/package"
for later in 2 3; do
    sed -i "s/^Version: .*/Version: 99.$later-1/" "$work/package/DEBIAN/control"
    echo "# new in version $later" >>"$work/package/etc/synchromesh/synchromesh.yaml"
    dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/package" "$work/system/test/$later.deb" >/dev/null
done

# With processes and mounts of its own, so that nothing outlives it.
unshare --mount --pid --fork --kill-child chroot "$work/system" /bin/bash /test/checks.sh

# Where these shells are, they read what they are to complete with.
readonly share=$work/package/usr/share
if command -v zsh >/dev/null; then zsh -n "$share/zsh/vendor-completions/_synchromesh"; fi
if command -v fish >/dev/null; then
    fish --no-execute "$share/fish/vendor_completions.d/synchromesh.fish"
fi
echo "the package is as it should be"
