#!/usr/bin/env bash
# From a fresh clone to a running microVM: installs what is missing, builds, boots the image
# `minimal` with real QEMU, runs a command in it, shows how it is isolated, and leaves nothing
# behind. What it prints after "$" can be pasted.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

mvmctl=bin/mvmctl
name=
child=

# shellcheck disable=SC2317 # called by the traps
cleanup() {
  local code=$?
  trap - EXIT INT TERM HUP
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ -n "$name" ] && [ -x "$mvmctl" ] && "$mvmctl" ls -a -q 2>/dev/null | grep -x "$name" >/dev/null; then
    say "Removing $name"
    "$mvmctl" down "$name" >/dev/null 2>&1 || true
    "$mvmctl" rm "$name" >/dev/null 2>&1 || true
  fi
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# run runs one command so that a signal to this script reaches it at once.
run() {
  local code=0
  "$@" <&0 &
  child=$!
  wait "$child" || code=$?
  child=
  return $code
}

# show prints a command as one would type it, and runs it.
show() {
  printf '\n$ %s\n' "$*"
  run "$@"
}

title() { printf '\n== %s\n' "$*"; }

title "What this needs"
scripts/dev-setup.sh --run

title "Building"
run scripts/build.sh

# A free name, so that nothing of yours is touched.
name=hello
while "$mvmctl" ls -a -q | grep -x "$name" >/dev/null; do
  name=hello-$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n')
done

title "Booting a microVM"
show "$mvmctl" up -d --timings --name "$name" minimal

title "Running a command in it"
show "$mvmctl" exec "$name" -- uname -a

title "How it is isolated"
show "$mvmctl" ls
show "$mvmctl" inspect "$name"

# Where its files and processes are, to look for leftovers afterwards.
facts=$("$mvmctl" inspect --json "$name")
dir=$(sed -n 's/^  "dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$facts")
pids=$(awk '/"(supervisor|vmm)": \{/ { of_host = 1 } of_host && /"pid":/ { gsub(/[^0-9]/, ""); print; of_host = 0 }' <<<"$facts")
if [ -z "$dir" ] || [ -z "$pids" ]; then die "mvmctl inspect --json says neither folder nor processes: $facts"; fi

title "Stopping and removing it"
show "$mvmctl" down "$name"
show "$mvmctl" rm "$name"

# gone waits a moment for a process to end: its parent may be slow to take note, and a process
# that only its parent still has to take note of is gone.
gone() {
  local i
  for i in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$1" 2>/dev/null || return 0
    if grep ') Z ' "/proc/$1/stat" >/dev/null 2>&1; then return 0; fi
    [ "$i" -lt 10 ] && sleep 0.2
  done
  return 1
}

left=0
complain() { say "left behind: $1"; left=1; }
if "$mvmctl" ls -a -q | grep -x "$name" >/dev/null; then complain "the record of $name"; fi
if [ -n "$dir" ] && [ -e "$dir" ]; then complain "$dir"; fi
for pid in $pids; do
  gone "$pid" || complain "process $pid"
done
[ "$left" -eq 0 ] || die "the machine was not removed completely; mvmctl doctor tells more"
name=

cat <<EOF

Nothing is left behind: no record, no process, no file below $dir.

Try next:
  $mvmctl up minimal -- sh -c 'echo hello from \$(hostname); exit 42'; echo \$?
  $mvmctl up -d --name web -p 8080:80 minimal
  $mvmctl console web        # an interactive shell; exit or Ctrl-D leaves it
  $mvmctl logs -f web
  $mvmctl doctor             # what this host can do, and what would make it better
  $mvmctl --help
EOF
