#!/usr/bin/env bash
# Runs inside the small system, as root: what the package's life looks like from there. Ends at the
# first thing that is not as it should be.
set -euo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t devtmpfs dev /dev 2>/dev/null || mknod -m 666 /dev/null c 1 3 2>/dev/null || true

readonly config=/etc/synchromesh/synchromesh.yaml state=/var/lib/synchromesh

told='the beginning'
check() { # WHAT COMMAND...: not in a condition, so that each line of what is evaluated counts
    told=$1
    "${@:2}"
    echo "ok: $1"
}
trap '[[ $? == 0 ]] || echo "NOT OK, at or after: $told" >&2' EXIT

install_package() { # FILE
    dpkg --force-confdef --force-confold --install "/test/$1" >/test/log 2>&1 ||
        { cat /test/log; return 1; }
    # A script of the package that complains has not done all of its work.
    lacks 'error|fail|warning' <(grep -v '^dpkg: warning: downgrading' /test/log)
}
lacks() { if grep -iE -- "$1" "$2"; then return 1; fi; } # PATTERN FILE

# Mode and owner, as in "644 root:root".
is() { [[ $(stat -c '%a %U:%G' "$2") == "$1" ]] || { stat "$2"; return 1; }; }
# Files that the package has, but folders.
files() { dpkg -L synchromesh | while read -r file; do [[ -d $file ]] || echo "$file"; done; }
shows() { grep -q -- "$1" <("${@:2}" 2>&1); }

# What a fresh installation looks like.
install_package 1.deb
files >/test/files
check "files belong to root, and only the program can be run" eval '
    is "755 root:root" /usr/bin/synchromesh
    grep -v ^/usr/bin/ /test/files | while read -r file; do is "644 root:root" "$file"; done'
check "the program runs" shows '^synchromesh [0-9]' synchromesh --version
check "the user is there, and cannot log in" eval '
    getent passwd synchromesh | grep -q ":/usr/sbin/nologin$"
    getent group synchromesh >/dev/null'
check "the configuration is dpkg's to guard" grep -q "^ $config" <(dpkg-query -f '${Conffiles}' -W synchromesh)
check "units, and nothing is enabled" eval '
    for unit in /usr/lib/systemd/system/synchromesh*; do
        [[ $(systemctl is-enabled "${unit##*/}") =~ disabled|static|indirect ]]
    done'
check "without a bundle the daemon says which one it lacks" shows \
    "models\.0\.bundle.*cannot read $state/model.mesh" synchromesh config check

# Manual and completion.
commands=$(synchromesh --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]\+\) .*/\1/p' | grep -vx help)
check "every command has its page, without a warning" eval '
    [[ $(wc -w <<<"$commands") -gt 10 ]]
    for command in "" $commands; do
        page=/usr/share/man/man1/synchromesh${command:+-$command}.1.gz
        [[ -z $(man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null) ]]
        man -l "$page" | grep -q "^NAME"
    done'
complete_bash() { # WORD... : what bash offers for the last one
    bash -c '
        . /usr/share/bash-completion/bash_completion
        _comp_load synchromesh 2>/dev/null || _completion_loader synchromesh || true
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        complete -p synchromesh | grep -q -- "-F _synchromesh"
        _synchromesh synchromesh "${@: -1}" "${@: -2:1}"
        echo "${COMPREPLY[@]}"' bash "$@"
}
check "bash completes a command" [ "$(complete_bash synchromesh stat)" = status ]
check "bash completes an option" shows '^--in-place$' complete_bash synchromesh switch --in

# A first start, as docs/operations.md has it. Who starts it makes the folders, as systemd does.
install -d -o synchromesh -g synchromesh -m 750 /run/synchromesh "$state"
synchromesh pack /test/recipe.yaml >/dev/null 2>&1
install -m 644 -o root -g root /test/cpp.mesh "$state/model.mesh"
check "with a bundle the configuration can be used" shows 'can be used' synchromesh config check
# The limit on locked memory is not for us to raise everywhere.
sed -i 's/^lock_memory: true/lock_memory: false/' "$config"
setpriv --reuid synchromesh --regid synchromesh --init-groups synchromesh serve 2>/test/daemon.log &
daemon=$!
for _ in {1..300}; do
    [[ ! -S /run/synchromesh/attach.sock ]] || break
    kill -0 "$daemon" || { cat /test/daemon.log; exit 1; }
    sleep 0.1
done
check "its user serves with the configuration of the package" shows 'generation 1' synchromesh switch day
check "what is served is written out" shows 'as task day has them' synchromesh export --out /test/day
kill -TERM "$daemon"
check "it stops when it is told to" wait "$daemon"
sed -i 's/^lock_memory: false/lock_memory: true/' "$config"

# Upgrades and back.
systemctl enable synchromesh.service >/dev/null 2>&1
install_package 2.deb
check "a configuration that nobody changed is renewed" grep -q '^# new in version 2' "$config"
check "an upgrade leaves enabled what was" [ "$(systemctl is-enabled synchromesh.service)" = enabled ]
echo '# by the operator' >>"$config"
install_package 3.deb
check "one that somebody changed stays" eval '
    grep -q "^# by the operator" "$config"
    lacks "version 3" "$config"'
check "and the new default lies beside it" grep -q 'version 3' "$config.dpkg-dist"
check "an upgrade restarts nothing" eval '
    lacks "systemctl.*start|invoke" /var/lib/dpkg/info/synchromesh.postinst
    grep -B1 "invoke stop" /var/lib/dpkg/info/synchromesh.prerm | grep -q "= remove"'
install_package 1.deb
check "rolled back, the program is of before and the configuration stays" eval '
    [[ $(dpkg-query -f "\${Version}" -W synchromesh) == 0.* ]]
    grep -q "^# by the operator" "$config"'

# Removed, and come again.
touch "$state/foresight-cpp.a" "$state/starts" "$state/own.mesh"
dpkg --remove synchromesh >/dev/null
check "removed, no file of it is left but the configuration" eval '
    while read -r file; do [[ $file == "$config" || ! -e $file ]]; done </test/files'
check "removed, configuration and data stay" eval '
    grep -q "^# by the operator" "$config"
    cmp -s /test/cpp.mesh "$state/model.mesh"
    [[ -e $state/foresight-cpp.a ]]'
install_package 1.deb
check "come again, it is enabled as before" [ "$(systemctl is-enabled synchromesh.service)" = enabled ]

dpkg --purge synchromesh >/dev/null
check "purged, what was ours is gone" eval '
    [[ ! -e /etc/synchromesh && $(ls "$state" | tr "\n" " ") == "model.mesh own.mesh " ]]
    [[ -z $(find /etc /usr /var/lib/dpkg/info /var/lib/systemd -name "*synchromesh*") ]]'
check "purged, bundles stay" cmp -s /test/cpp.mesh "$state/model.mesh"
rm "$state"/*
install_package 1.deb
dpkg --purge synchromesh >/dev/null
check "purged, an empty folder goes too" [ ! -e "$state" ]
