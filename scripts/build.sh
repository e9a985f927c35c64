#!/usr/bin/env bash
# Builds bin/mvmctl with the guest agent, and the runner for libkrun, inside. Quick when nothing has changed, and the same
# sources give the same agent whatever the commit: its digest names caches on users' machines.
#
#   scripts/build.sh         the agent for this machine's processor, then bin/mvmctl
#   scripts/build.sh --all   the agents for every processor that we release for, then bin/mvmctl
#
# GOARCH and GOOS are honoured. VERSION overrides the version that mvmctl says it has.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

arches=$(go env GOARCH)
case "${1:-}" in
  '') ;;
  --all) arches="amd64 arm64" ;;
  *) die "usage: scripts/build.sh [--all]" ;;
esac

# sha256 FILE: its digest in hex; macOS has no sha256sum
sha256() {
  if have sha256sum; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# version: the tag, or how far we are from it; the file VERSION where there is no git (a source
# archive), else what says plainly that it is nobody's release
version() {
  local v
  if v=$(git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null); then
    printf '%s\n' "${v#v}"
  elif [ -s VERSION ]; then
    head -n 1 VERSION
  elif v=$(git describe --always --dirty 2>/dev/null); then
    printf '0.0.0-dev+%s\n' "$v"
  else
    printf '0.0.0-dev\n'
  fi
}

# embed PROGRAM ARCH: puts a program where package agentbin embeds it from
embed() {
  local name=$1 arch=$2 dir=internal/agentbin/bin/$2 out=bin/$1-linux-$2 digest
  # go build leaves a result alone that is up to date. No version-control stamp: it would change
  # the agent, and with it every cached initramfs, by each commit.
  GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$out" "./cmd/$name"
  digest=$(sha256 "$out")
  if [ -s "$dir/$name.gz" ] && [ "$digest" = "$(cat "$dir/$name.sha256" 2>/dev/null)" ]; then
    return
  fi
  # The digest is written last: with an old digest or none, a half-written archive is made anew.
  rm -f "$dir/$name.sha256"
  gzip -9 -n -c "$out" >"$dir/$name.gz.tmp"
  mv "$dir/$name.gz.tmp" "$dir/$name.gz"
  printf '%s\n' "$digest" >"$dir/$name.sha256.tmp"
  mv "$dir/$name.sha256.tmp" "$dir/$name.sha256"
}

mkdir -p bin
for arch in $arches; do
  embed mvm-agent "$arch"
  embed mvm-krun "$arch"
done
flags="-s -w -X main.version=${VERSION:-$(version)}"
go build -trimpath -ldflags="$flags" -o bin/mvmctl ./cmd/mvmctl
# Elsewhere than on Linux mvmctl also puts itself into a virtual machine with Linux.
if [ "$(go env GOOS)" != linux ]; then
  GOOS=linux go build -trimpath -ldflags="$flags" -o "bin/mvmctl-linux-$(go env GOARCH)" ./cmd/mvmctl
fi
