#!/usr/bin/env bash
# What only a Mac can show of the backend `apple-container`, step by step, each with a verdict.
#
#   e2e/macos.sh               on a Mac with Go and `brew install vfkit`
#   e2e/macos.sh --rehearse    the same steps with QEMU, on any host: tries this script, proves nothing
#
# MVM_KERNEL is the guest kernel, as `mvmctl up --kernel` takes it; without it Debian's arm64 cloud
# kernel is downloaded. Everything is put into a new folder below /tmp and removed in the end, unless
# a step failed: then its logs stay there. It takes about five minutes. It exits with 1 when a step
# failed; what it prints is what to report.
#
# Everything else of this backend is tested on any Linux (go test ./internal/driver/vz). Of what
# follows nothing was ever seen on a Mac unless docs or the changelog say so.
#
# It keeps to what macOS's own bash (3.2) and tools have.
# shellcheck disable=SC2016 # what stands in single quotes is the guest's
set -u
cd "$(dirname "$0")/.." || exit 1

backend=apple-container
rehearse=
case ${1-} in
  "") ;;
  --rehearse) backend=qemu rehearse=1 ;;
  *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
esac

work=$(mktemp -d /tmp/mvm-mac.XXXXXX) || exit 1
export MVM_STATE_DIR=$work/state MVM_DATA_DIR=$work/data MVM_CONFIG_DIR=$work/config MVM_RUNTIME_DIR=$work/run
export MVM_CACHE_DIR=${MVM_CACHE_DIR:-$work/cache}
mvmctl=$PWD/bin/mvmctl
passed=0 failed=0 notes=""

# limit ends a command that takes longer than so many seconds; macOS has no timeout(1).
limit() {
  local secs=$1 pid watch code
  shift
  "$@" &
  pid=$!
  (sleep "$secs" && kill -KILL "$pid") >/dev/null 2>&1 &
  watch=$!
  wait "$pid"
  code=$?
  pkill -P "$watch" 2>/dev/null # its sleep
  kill "$watch" 2>/dev/null
  wait "$watch" 2>/dev/null
  return "$code"
}

pass() { passed=$((passed + 1)); printf 'PASS  %s\n' "$1"; }
fail() { failed=$((failed + 1)); printf 'FAIL  %s\n' "$1"; [ -z "${2-}" ] || printf '%s\n' "$2" | sed 's/^/      /'; }
note() { notes="$notes
NOTE  $1"; printf 'NOTE  %s\n' "$1"; }

# expect runs a command and compares what it prints.
expect() {
  local what=$1 want=$2 got
  shift 2
  got=$(limit 120 "$@" 2>&1)
  if [ "$got" = "$want" ]; then pass "$what"; else fail "$what" "wanted: $want
got:    $got"; fi
}

# has runs a command and looks for a pattern in what it prints.
has() {
  local what=$1 want=$2 got
  shift 2
  got=$(limit 120 "$@" 2>&1)
  if printf '%s\n' "$got" | grep -E -- "$want" >/dev/null; then pass "$what"; else fail "$what" "wanted: $want
got:    $got"; fi
}

up() { limit 300 "$mvmctl" up -d --progress none --hypervisor "$backend" "$@"; }
start() { limit 300 "$mvmctl" start -d mac >/dev/null 2>&1; }
field() { "$mvmctl" inspect --json "$1" | awk -v part="\"$2\": {" 'index($0, part) { on = 1 } on && /"pid":/ { gsub(/[^0-9]/, ""); print; exit }'; }
alive() { kill -0 "$1" 2>/dev/null; }
# gone waits until a process has ended.
gone() {
  local i
  for i in $(seq 1 100); do
    alive "$1" || return 0
    sleep 0.1
  done
  return 1
}

# shellcheck disable=SC2317 # called by the trap
cleanup() {
  trap - EXIT INT TERM
  limit 60 "$mvmctl" rm --all --force >/dev/null 2>&1
  if [ "$failed" = 0 ]; then rm -rf "$work"; else echo "logs: $work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "== This Mac"
if [ -n "$rehearse" ]; then
  echo "A REHEARSAL with $backend: what passes here is not known to pass on a Mac."
elif [ "$(uname -s)" != Darwin ]; then
  echo "This is no Mac; --rehearse tries the script." >&2
  exit 2
else
  sw_vers
  uname -m
  sysctl -n machdep.cpu.brand_string kern.hv_support
  vfkit --version || { echo "run: brew install vfkit" >&2; exit 2; }
  codesign -d --entitlements - "$(command -v vfkit)" 2>&1 | grep virtualization
fi
# shellcheck disable=SC2015
[ -x "$mvmctl" ] && [ -z "${MVM_REBUILD-}" ] || limit 600 scripts/build.sh || exit 1

echo "== A guest kernel"
# Debian's list names the package's digest; the list itself comes over HTTPS and is not verified further.
debian=https://deb.debian.org/debian
of() { awk -v p="$1" -v f="$2: " 'BEGIN { RS = ""; FS = "\n" } $1 == "Package: " p { for (i = 1; i <= NF; i++) if (index($i, f) == 1) print substr($i, length(f) + 1) }' "$work/Packages"; }
if [ -z "${MVM_KERNEL-}" ] && [ -z "$rehearse" ]; then
  curl -fsSL "$debian/dists/bookworm/main/binary-arm64/Packages.gz" | gunzip >"$work/Packages" || exit 1
  package=$(of linux-image-cloud-arm64 Depends | sed 's/[ ,(].*//')
  MVM_KERNEL=$work/kernel.deb
  curl -fsSL -o "$MVM_KERNEL" "$debian/$(of "$package" Filename)" || exit 1
  [ "$(shasum -a 256 "$MVM_KERNEL" | cut -d' ' -f1)" = "$(of "$package" SHA256)" ] || { echo "the kernel's digest is wrong" >&2; exit 1; }
  echo "$package"
  export MVM_KERNEL
fi

echo "== A machine"
begin=$(date +%s)
if out=$(up --name mac -p 0:8080 -v data:/data -e WORD=hello minimal 2>&1); then
  pass "up ($(($(date +%s) - begin)) s, the first with its boot probe)"
else
  fail "up" "$out"
  limit 60 "$mvmctl" doctor
  exit 1
fi
has "doctor says that the backend works" "$backend" "$mvmctl" doctor
has "it isolates as a virtual machine does" '"isolation": "(vm|emulated)"' "$mvmctl" inspect --json mac
expect "exec" "out" "$mvmctl" exec mac -- sh -c 'echo out'
expect "environment" "hello" "$mvmctl" exec mac -- sh -c 'echo $WORD'
expect "host name" "mac" "$mvmctl" exec mac -- hostname
has "its own kernel" '^Linux ' "$mvmctl" exec mac -- cat /proc/version
limit 60 "$mvmctl" exec mac -- sh -c 'exit 7'
code=$?
if [ "$code" = 7 ]; then pass "exit code"; else fail "exit code" "got $code"; fi
expect "disks have their names" "mvm-config mvm-root mvm-upper mvm-volume0 " sh -c "'$mvmctl' exec mac -- sh -c 'for d in /sys/block/vd*; do cat \$d/serial; echo; done' | sort | tr '\n' ' '"
has "the image is read-only to it" '^1$' "$mvmctl" exec mac -- sh -c 'for d in /sys/block/vd*; do if [ "$(cat $d/serial)" = mvm-root ]; then cat $d/ro; fi; done'
expect "a volume takes data" "" "$mvmctl" exec mac -- sh -c 'echo kept > /data/file && sync'
head -c 3000000 /dev/urandom >"$work/in"
limit 60 "$mvmctl" cp "$work/in" mac:/tmp/f && limit 60 "$mvmctl" cp mac:/tmp/f "$work/out"
if cmp -s "$work/in" "$work/out"; then pass "3 MB in and out again"; else fail "3 MB in and out again"; fi
has "the console's terminal is read" 'mvm-agent: ready' "$mvmctl" logs --source console mac
has "the console takes a flood" 'the-last' sh -c "'$mvmctl' exec mac -- sh -c 'i=0; while [ \$i -lt 2000 ]; do echo flood flood flood flood flood flood flood; i=\$((i+1)); done > /dev/console; echo the-last > /dev/console'; sleep 2; '$mvmctl' logs --source console mac | tail -n 5"
limit 120 "$mvmctl" exec mac -- true
begin=$(date +%s)
for i in 1 2 3 4 5 6 7 8 9 10; do limit 30 "$mvmctl" exec mac -- true || fail "exec $i of 10"; done
pass "ten execs in $(($(date +%s) - begin)) s"

echo "== Two machines, and the end"
if up --name other minimal >/dev/null 2>&1; then pass "a second machine beside it"; else fail "a second machine beside it"; fi
vmm=$(field other vmm)
if limit 120 "$mvmctl" down other >/dev/null && gone "$vmm"; then pass "down: the VMM has ended"; else fail "down: the VMM $vmm is left"; fi
n=$(find "$MVM_RUNTIME_DIR" -name 'vz.*' | wc -l | tr -d ' ')
if [ -n "$rehearse" ] || [ "$n" = 2 ]; then pass "only the running machine has sockets"; else fail "only the running machine has sockets" "$(find "$MVM_RUNTIME_DIR" -name 'vz.*')"; fi
if limit 120 "$mvmctl" down mac >/dev/null && start; then pass "started again"; else fail "started again"; fi
expect "the volume has kept its data" "kept" "$mvmctl" exec mac -- cat /data/file

echo "== What goes wrong"
limit 60 "$mvmctl" exec mac -- poweroff >/dev/null 2>&1
if limit 60 "$mvmctl" wait mac >/dev/null 2>&1; then pass "a power-off from inside ends the machine"; else fail "a power-off from inside ends the machine"; fi

start
limit 60 "$mvmctl" exec mac -- sh -c 'echo c > /proc/sysrq-trigger' >/dev/null 2>&1
limit 60 "$mvmctl" wait mac >/dev/null 2>&1
has "a kernel panic is seen and ends the machine" 'panic' "$mvmctl" inspect mac

start
vmm=$(field mac vmm)
limit 60 "$mvmctl" exec mac -- reboot >/dev/null 2>&1
if limit 60 "$mvmctl" wait mac >/dev/null 2>&1 && gone "$vmm"; then
  pass "a reboot from inside ends the machine, as on other backends"
else
  fail "a reboot from inside ends the machine, as on other backends"
fi
limit 120 "$mvmctl" down mac >/dev/null 2>&1

start
kill -KILL "$(field mac vmm)"
limit 60 "$mvmctl" wait mac >/dev/null 2>&1
has "a VMM that was killed is told" 'killed|signal' "$mvmctl" inspect mac

# macOS has no parent-death signal: the next command ends what the supervisor left.
start
vmm=$(field mac vmm)
kill -KILL "$(field mac supervisor)"
limit 120 "$mvmctl" ls >/dev/null
start
if gone "$vmm"; then pass "what a killed supervisor left behind is ended"; else fail "what a killed supervisor left behind is ended" "process $vmm"; fi
expect "and the machine starts again" "ok" "$mvmctl" exec mac -- echo ok
limit 120 "$mvmctl" rm --force mac >/dev/null

if [ -z "$rehearse" ]; then
  printf '\037\213\010not a kernel' >"$work/Image.gz"
  has "a kernel that is none is refused" 'kernel' "$mvmctl" up --hypervisor "$backend" --kernel "$work/Image.gz" minimal -- true
  echo "== The conformance suite with the real vfkit"
  if limit 900 go test -count=1 -v -run 'TestConformance$' ./internal/driver/vz >"$work/conformance.log" 2>&1 && ! grep -q -- '--- SKIP: TestConformance ' "$work/conformance.log"; then
    pass "conformance"
  else
    fail "conformance" "$(grep -E -- '--- (FAIL|SKIP)|\.go:[0-9]+:' "$work/conformance.log" | head -n 30)"
  fi
fi

limit 60 "$mvmctl" rm --all --force >/dev/null 2>&1
left=$(pgrep -f "$work" | tr '\n' ' ')
if [ -z "$left" ]; then pass "no process is left"; else fail "no process is left" "$left"; fi

printf '\n%s passed, %s failed%s%s\n' "$passed" "$failed" "${rehearse:+ (a rehearsal)}" "$notes"
[ "$failed" = 0 ]
