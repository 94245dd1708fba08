#!/usr/bin/env bash
# Boots a machine whose first process is systemd, installs the units and the program there, and checks
# them: see README.md. Builds the program unless SYNCHROMESH_BIN names one. Arguments are words of the
# names of checks: only those are made.
# Needs Debian's packages once, for what it boots; where there are none, it fails, or skips all if
# SYNCHROMESH_SKIP_BOOT=1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
readonly cache=$root/target/systemd-test

skip() {
    if [[ ${SYNCHROMESH_SKIP_BOOT-} == 1 ]]; then
        echo "tests/systemd: SKIPPED, as $1" >&2
        exit 0
    fi
    echo "tests/systemd: $1; SYNCHROMESH_SKIP_BOOT=1 skips these tests" >&2
    exit 1
}
missing() {
    local tool
    for tool in qemu-system-x86_64 mmdebstrap mke2fs strip; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
}
[[ $(uname -m) == x86_64 ]] || skip "the machine to be booted is x86-64, and this one is not"
if [[ -n $(missing) ]]; then
    # Only as root, and without a question.
    said=$({
        apt-get update -q && apt-get install -qy --no-install-recommends \
            qemu-system-x86 mmdebstrap debian-archive-keyring e2fsprogs binutils xz-utils
    } 2>&1) || echo "$said" >&2
fi
[[ -z $(missing) ]] || skip "there is no $(missing | paste -sd ' ') here"

cd "$root"
if [[ -z ${SYNCHROMESH_BIN-} ]]; then
    cargo build --quiet --locked
    SYNCHROMESH_BIN=$root/target/debug/synchromesh
fi
"$here/image.sh" "$cache"

work=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/payload" "$work/model"
cp -r systemd "$here/guest" "$work/payload/"
strip -o "$work/payload/synchromesh" "$SYNCHROMESH_BIN"
python3 "$here/bundle.py" "$work/model"
"$SYNCHROMESH_BIN" compile "$work/model/recipe.yaml" >"$work/compile.log" 2>&1 || { cat "$work/compile.log"; exit 1; }
mv "$work/model/model.mesh" "$work/payload/"
echo "$@" >"$work/payload/wanted"
mke2fs -q -t ext4 -d "$work/payload" "$work/payload.ext4" 256M >/dev/null

# Hardware does it in half the time, where the processor lets this machine use it.
accelerator=tcg,thread=multi
if [[ -w /dev/kvm ]] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
    accelerator=kvm
fi
echo "booting (${accelerator%%,*}); the console goes to ${cache#"$root/"}/console.log"
disk() { echo "file=$1,if=virtio,format=raw,snapshot=on,cache=unsafe"; }
# What is written to the disks is gone afterwards. The second serial line has the results. The time
# limit is for a machine that hangs.
TMPDIR=$work timeout 1500 qemu-system-x86_64 -accel "$accelerator" -cpu max -smp 2 -m 1G \
    -nodefaults -no-reboot -display none \
    -serial "file:$cache/console.log" -serial "file:$work/results" \
    -kernel "$cache/vmlinuz" -initrd "$cache/first.cpio" -append "console=ttyS0 panic=-1 quiet" \
    -drive "$(disk "$cache/root.ext4")" -drive "$(disk "$work/payload.ext4")" </dev/null &
machine=$!
tail --quiet --follow=name --retry --lines=+1 --pid="$machine" "$work/results" 2>/dev/null | tr -d '\r'
wait "$machine" || { echo "tests/systemd: the machine ended with $?" >&2; exit 1; }
tr -d '\r' <"$work/results" | grep -qE '^[1-9][0-9]* passed, 0 failed$' ||
    { echo "tests/systemd: failed; the journal of what failed is in $cache/console.log" >&2; exit 1; }
