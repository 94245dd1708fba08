#!/usr/bin/env bash
# Makes the Debian package: target/debian/synchromesh_*.deb. Needs cargo-deb (`cargo install --locked
# cargo-deb`). Arguments go to it, such as `--deb-revision 2`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly made=target/package
rm -rf "$made"
# The same sources make the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

cargo build --release --locked --bin synchromesh
# In development's profile, which has compiled what it needs for the tests.
cargo run --quiet --locked --example manual -- "$made/share" "$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)"

packaging/stage.sh "$made/root" "$made/share"
# cargo-deb takes what an Also= holds for one name.
sed -i -E ':next; s/^(Also=[^ \n]+) +/\1\nAlso=/M; t next' "$made"/root/usr/lib/systemd/system/*
gzip -9n <CHANGELOG.md >"$made/root/usr/share/doc/synchromesh/changelog.gz"
install -D -m 644 packaging/debian/lintian-overrides \
    "$made/root/usr/share/lintian/overrides/synchromesh"

# Debian's form of a changelog: one entry, which refers to ours.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' Cargo.toml)
cat >"$made/changelog" <<END
synchromesh ($version-1) unstable; urgency=medium

  * See changelog.gz.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

# It warns of units that it did not look for itself; lintian sees what is really there.
cargo deb --quiet --no-build --locked "$@"
ls target/debian/synchromesh_"$version"*.deb
