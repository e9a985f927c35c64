# Recipes for working on mvmctl; `just` alone lists them. Each is one of our scripts or one
# command of Go: nothing here is needed to build or test.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

export CGO_ENABLED := "0"
export PATH := justfile_directory() / ".tools/bin" + ":" + justfile_directory() / ".tools/go/bin" + ":" + env("PATH")

# list the recipes
[private]
default:
    @just --list --unsorted

# build bin/mvmctl (and the guest agents inside it)
build:
    @scripts/build.sh

# build, then run mvmctl:  just run -- up minimal
run *ARGS: build
    @if [ "${1:-}" = -- ]; then shift; fi; exec bin/mvmctl "$@"

# build, then run mvmctl with throw-away directories in .dev/, apart from your own machines
dev *ARGS: build
    @if [ "${1:-}" = -- ]; then shift; fi; \
    mkdir -p .dev; runtime="${TMPDIR:-/tmp}/mvm-dev-$(id -u)"; mkdir -p -m 700 "$runtime"; \
    MVM_STATE_DIR="$PWD/.dev/state" MVM_CONFIG_DIR="$PWD/.dev/config" MVM_DATA_DIR="$PWD/.dev/data" \
    MVM_RUNTIME_DIR="$runtime" exec bin/mvmctl "$@"

# everything CI runs, with what is installed here; --quick leaves out what boots machines
test *ARGS:
    @scripts/test.sh "$@"

# tests of one package:  just test-package engine -v
test-package PACKAGE *ARGS:
    @p="$1"; shift; if [ -d "internal/$p" ]; then p="internal/$p"; fi; go test "./${p#./}/..." "$@"

# tests whose name matches, in all packages:  just test-filter Crash
test-filter PATTERN *ARGS:
    @p="$1"; shift; go test -p 2 -run "$p" "$@" ./... | { grep -v -e '\[no test files\]' -e '\[no tests to run\]' || true; }

# tests that boot real machines
e2e *ARGS: build
    go test -p 1 -timeout 60m -v ./e2e/... "$@"

# all tests on a host with real KVM, made for it: half an hour; a part of them:  just kvmhost '^qemu$/life|exec'
kvmhost TESTS="" *ARGS: build
    @tests="$1"; shift; MVM_LIBKRUN="${MVM_LIBKRUN:-$(scripts/libkrun.sh || true)}" MVM_KVMHOST=all \
    go test -count 1 -timeout 100m -v -run "^TestKVMHost\$/$tests" ./e2e "$@"

# fuzz every target, longer than CI does:  just fuzz 1m
fuzz EACH="20s":
    @dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; export TESTSUM_DIR="$dir"; \
    go run ./scripts/testsum fuzz fuzzing -each "$1" -budget 24h && go run ./scripts/testsum total

# measure against the yardsticks of docs/performance.md
bench *ARGS:
    @scripts/bench.sh "$@"

# format all Go files (gofumpt, import groups)
fmt:
    golangci-lint fmt ./...

# run the linters and the import law
lint:
    golangci-lint run --allow-parallel-runners ./...
    golangci-lint fmt --diff ./...
    go test ./internal/archtest
    @if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh .ci/run; else echo "shellcheck is not installed: scripts/dev-setup.sh --lint"; fi

# what CI does, from the installation of tools to the last test
ci:
    @.ci/run

# type-check and build for linux and darwin on amd64 and arm64
cross: build
    @for os in linux darwin; do for arch in amd64 arm64; do \
        echo "$os/$arch"; GOOS=$os GOARCH=$arch go build ./...; GOOS=$os GOARCH=$arch go vet ./...; \
    done; done

# stripped, reproducible binaries for every platform in dist/
release-build:
    @scripts/release-build.sh

# run the conformance suite on every backend of this host, and write docs/backends.md
backends:
    { go test -json -p 1 -count 1 -timeout 40m -run Conformance ./internal/driver/... || true; \
    MVM_LIBKRUN="${MVM_LIBKRUN:-$(scripts/libkrun.sh || true)}" MVM_KVMHOST=all \
    go test -json -count 1 -timeout 100m -run '^TestKVMHost$/^(qemu|firecracker.*|libkrun)$' ./e2e || true; } | \
    go run ./scripts/backends docs/backends.md
