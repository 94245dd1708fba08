#!/bin/sh
# Runs within mmdebstrap, with the folder of the new system: takes what is booted, and makes the disk.
# WORK is where that goes, HERE the folder of this file.
set -eu
root=$1

# The kernel and the one program of the first file system are taken from their packages: installed,
# the kernel would have a first file system of its own made, which takes longer than all the rest.
mkdir "$WORK/packages"
cd "$WORK/packages"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
apt-get -qq -o APT::Sandbox::User=root download busybox-static "$kernel"
for package in *.deb; do
    dpkg-deb -x "$package" .
done
mv boot/vmlinuz-* "$WORK/vmlinuz"
mv usr/bin/busybox "$WORK/busybox"
find . -name 'virtio_blk.ko*' -exec mv {} "$WORK/" \;
rm -r "$WORK/packages"

# Nothing there waits for a network, or for somebody to log in.
echo synchromesh-test >"$root/etc/hostname"
printf '/dev/vda / ext4 defaults 0 0\n/dev/vdb /payload ext4 ro 0 0\n' >"$root/etc/fstab"
units=$root/etc/systemd/system
mkdir -p "$root/payload" "$units/multi-user.target.wants"
cp "$HERE/checks.service" "$units/"
ln -s ../checks.service "$units/multi-user.target.wants/"
for unit in getty.target systemd-timesyncd.service apt-daily.timer dpkg-db-backup.timer; do
    ln -sf /dev/null "$units/$unit"
done

# Without what is mounted there while packages are installed.
mkdir "$WORK/root"
tar -C "$root" --one-file-system -c . | tar -C "$WORK/root" -xp
mke2fs -q -t ext4 -d "$WORK/root" "$WORK/root.ext4" 1G >/dev/null
rm -r "$WORK/root"
