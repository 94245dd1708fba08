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
# Machines that share the checks: one emulated processor keeps one of the real ones busy.
readonly parts=2

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
machines=()
stop() {
    # They take their disks' temporary files with them.
    ((${#machines[@]} == 0)) || kill "${machines[@]}" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
mkdir "$work/payload" "$work/model"
cp -r systemd "$here/guest" "$work/payload/"
strip -o "$work/payload/synchromesh" "$SYNCHROMESH_BIN"
python3 "$here/bundle.py" "$work/model"
"$SYNCHROMESH_BIN" compile "$work/model/recipe.yaml" >"$work/compile.log" 2>&1 || { cat "$work/compile.log"; exit 1; }
mv "$work/model/model.mesh" "$work/payload/"
echo "$@" >"$work/payload/wanted"
mke2fs -q -t ext4 -d "$work/payload" "$work/payload.ext4" 256M >/dev/null

# Hardware is quicker, where the processor lets this machine use it.
accelerator=tcg,thread=multi
if [[ -w /dev/kvm ]] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
    accelerator=kvm
fi
disk() { echo "file=$1,if=virtio,format=raw,snapshot=on,cache=unsafe"; }
# What is written to the disks is gone afterwards. The second serial line has the results. The time
# limit is for a machine that hangs.
boot() { # number
    TMPDIR=$work exec timeout 1500 qemu-system-x86_64 -accel "$accelerator" -cpu max -smp 2 -m 1G \
        -nodefaults -no-reboot -display none \
        -serial "file:$cache/console.$1.log" -serial "file:$work/results.$1" \
        -kernel "$cache/vmlinuz" -initrd "$cache/first.cpio" \
        -append "console=ttyS0 panic=-1 quiet part=$1/$parts" \
        -drive "$(disk "$cache/root.ext4")" -drive "$(disk "$work/payload.ext4")" </dev/null
}
echo "booting $parts machines (${accelerator%%,*}); their consoles go to ${cache#"$root/"}/console.*.log"
for ((part = 0; part < parts; part++)); do
    : >"$work/results.$part"
    boot "$part" &
    machines+=("$!")
    tail --quiet --follow --lines=+1 --pid="$!" "$work/results.$part" | sed -u 's/\r$//' &
done
ended=0
for machine in "${machines[@]}"; do
    wait "$machine" || ended=$?
done
machines=()
wait

# Each machine ends with how many of its checks have passed and failed.
passed=0 failed=0
for ((part = 0; part < parts; part++)); do
    counts=$(tr -d '\r' <"$work/results.$part" | grep -xE '[0-9]+ passed, [0-9]+ failed') || ended=1
    read -r more_passed _ more_failed _ <<<"${counts:-0 passed, 1 failed}"
    passed=$((passed + more_passed)) failed=$((failed + more_failed))
done
echo "$passed passed, $failed failed"
if ((ended != 0 || failed != 0 || passed == 0)); then
    echo "tests/systemd: failed; what was logged is in ${cache#"$root/"}/console.*.log" >&2
    exit 1
fi
