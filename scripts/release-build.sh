#!/usr/bin/env bash
# Builds stripped, reproducible binaries of mvmctl for every platform into dist/, with their
# SHA-256 sums. The same commit and the same Go give the same bytes.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

rm -rf dist
mkdir dist
for os in linux darwin; do
  for arch in amd64 arm64; do
    say "mvmctl for $os/$arch"
    GOOS=$os GOARCH=$arch scripts/build.sh
    mv bin/mvmctl "dist/mvmctl-$os-$arch"
  done
done
scripts/build.sh # bin/mvmctl is this machine's again
cd dist
if have sha256sum; then sha256sum mvmctl-* >SHA256SUMS; else shasum -a 256 mvmctl-* >SHA256SUMS; fi
cat SHA256SUMS
