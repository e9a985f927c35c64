#!/usr/bin/env bash
# Runs everything that tells whether mvmctl works: formatting, vet, builds for every platform,
# unit tests, the import law, driver conformance, CLI scripts, crash points, end to end with
# real QEMU, a moment of fuzzing, linters. Ends with what was skipped and why; the last line is
# "N passed, N failed, N skipped".
#
#   scripts/test.sh              everything
#   scripts/test.sh --quick      without crash points, end to end, fuzzing and lint
#   scripts/test.sh --no-setup   do not call scripts/dev-setup.sh first
#
# A test that cannot run on this host skips by itself and says what is missing. With CI=true the
# linters are installed when they are missing; otherwise their absence is a named skip.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

quick=false
setup=true
for arg in "$@"; do
  case $arg in
    --quick) quick=true ;;
    --no-setup) setup=false ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown option $arg; see scripts/test.sh --help" ;;
  esac
done
ci=false
[ -n "${CI:-}" ] && [ "${CI:-}" != false ] && ci=true

TESTSUM_DIR=$(mktemp -d "${TMPDIR:-/tmp}/mvm-test.XXXXXX")
export TESTSUM_DIR
sum=$TESTSUM_DIR/testsum
child=

# shellcheck disable=SC2317 # called by the traps
finish() {
  trap - EXIT INT TERM HUP
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true # ends what it started, see scripts/testsum
    wait "$child" 2>/dev/null || true
  fi
  rm -rf "$TESTSUM_DIR"
}
trap finish EXIT
trap 'finish; exit 130' INT
trap 'finish; exit 143' TERM HUP

# run runs one command so that a signal to this script reaches it at once.
run() {
  local code=0
  "$@" &
  child=$!
  wait "$child" || code=$?
  child=
  return $code
}

failed=false
step() { run "$sum" step "$@" || failed=true; }
tests() { run "$sum" test "$@" || failed=true; }
skip() { "$sum" skip "$@"; }

total() {
  "$sum" total || failed=true
  if $failed; then exit 1; fi
  exit 0
}

if $setup; then
  if $ci && ! $quick; then scripts/dev-setup.sh --lint; else scripts/dev-setup.sh; fi
fi
go_now=$(go env GOVERSION) || die "no usable Go; run scripts/dev-setup.sh"
say "Testing with $go_now on $(uname -sm)"
run go build -o "$sum" ./scripts/testsum

# The programs first: nothing below means anything without them.
step build scripts/build.sh
if $failed; then total; fi

# shellcheck disable=SC2016 # for the inner shell
step gofmt sh -c 'bad=$(gofmt -s -l bench cmd e2e internal scripts 2>/dev/null); [ -z "$bad" ] || { echo "not formatted (run: just fmt):"; echo "$bad"; exit 1; }'
step vet go vet ./...
step "vet with crash points" go vet -tags faultpoints ./...
for os in linux darwin; do
  for arch in amd64 arm64; do
    step "cross-build $os/$arch" env GOOS=$os GOARCH=$arch CGO_ENABLED=0 go build ./...
  done
done
# Type-checks the test files of the other system too.
if [ "$(go env GOOS)" = linux ]; then other=darwin; else other=linux; fi
step "vet for $other/arm64" env GOOS=$other GOARCH=arm64 go vet ./...
step "go.mod is tidy" go mod tidy -diff

packages=()
while read -r package; do packages+=("$package"); done < <(go list ./... | grep -v -e '/e2e$' -e '/e2e/' -e '/bench$')
tests "unit, laws, conformance, CLI scripts, fuzz seeds" -p 2 -timeout 15m "${packages[@]}"

if ! $quick; then
  tests "end to end, crash points" -p 1 -timeout 60m ./e2e/...

  # Tests that need the crash points in their own process (those of e2e build their own program).
  crash=()
  while read -r word; do crash+=("$word"); done < <("$sum" tagged faultpoints)
  if [ ${#crash[@]} -gt 0 ]; then
    tests "crash points" -p 1 -timeout 10m -tags faultpoints "${crash[@]}"
  fi

  run "$sum" fuzz "fuzzing" -each 4s -budget 100s || failed=true

  if have golangci-lint; then
    step lint golangci-lint run --allow-parallel-runners ./...
    step "format (gofumpt, import groups)" golangci-lint fmt --diff ./...
  else
    skip lint "golangci-lint is not installed (scripts/dev-setup.sh --lint installs it)"
  fi
fi
if have shellcheck; then
  step shellcheck shellcheck -x scripts/*.sh .ci/run
else
  skip shellcheck "shellcheck is not installed (scripts/dev-setup.sh --lint installs it)"
fi

total
