#!/usr/bin/env bash
# Makes what the boot test boots: a kernel, a first file system that finds the disk, and a disk with
# a small system whose first process is systemd. They are kept for as long as what they are made by
# does not change. Needs mmdebstrap and Debian's packages.
set -euo pipefail

if (($# != 1)); then
    echo "usage: ${0##*/} FOLDER" >&2
    exit 2
fi
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
readonly HERE folder
readonly stamp=$folder/image.sha256
# The release decides which systemd is tested: one that knows notify-reload (253 or later).
readonly release=trixie
# Python runs the checks.
readonly packages=systemd,systemd-sysv,udev,dbus,python3

wanted=$(cat "$HERE/"{image.sh,hook.sh,init,checks.service} | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi
rm -f "$stamp"
WORK=$(mktemp -d "$folder/image.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

export HERE WORK
mmdebstrap --quiet --variant=essential --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="$HERE/hook.sh" "$release" /dev/null

mkdir -p "$WORK/first/"{bin,dev,root}
cp "$HERE/init" "$WORK/first/"
mv "$WORK/busybox" "$WORK/first/bin/"
mv "$WORK/virtio_blk.ko"* "$WORK/first/"
[[ -f $WORK/first/virtio_blk.ko ]] || xz -d "$WORK/first/virtio_blk.ko.xz"
(cd "$WORK/first" && find . | bin/busybox cpio -o -H newc 2>/dev/null) >"$WORK/first.cpio"
mv "$WORK/vmlinuz" "$WORK/first.cpio" "$WORK/root.ext4" "$folder/"
# Last, so that an image that is only half made is made again.
echo "$wanted" >"$stamp"
