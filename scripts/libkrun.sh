#!/usr/bin/env bash
# Fetches a libkrun for the tests that run one on the KVM host, into .tools/libkrun, and prints its path.
# It comes from the npm registry by name, version and digest; distributions that have libkrun have it in
# a package, which MVM_LIBKRUN can name just as well. It needs libcap-ng and glibc 2.34. Linux on amd64.
#
#   MVM_LIBKRUN=$(scripts/libkrun.sh)
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

release=1.17.4
package=@earendil-works/gondolin-krun-runner-linux-x64@0.12.0
digest=f541c68cd4fb7cb9b262d0b3c95a7d12f74920bc3562fc2104080aab5f6833a8

library=$TOOLS/libkrun/libkrun.so.$release
if ! [ -s "$library" ]; then
  [ "$(uname -sm)" = 'Linux x86_64' ] || die "the package has a libkrun for Linux on amd64 only"
  have npm || die "there is no npm to fetch $package with"
  mkdir -p "$TOOLS/libkrun"
  work=$(mktemp -d "$TOOLS/libkrun/.new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  npm pack --silent --pack-destination "$work" "$package" >&2
  printf '%s  %s\n' "$digest" "$work"/*.tgz | sha256sum --check --quiet >&2
  tar -xzf "$work"/*.tgz -C "$work" "package/lib/libkrun.so.$release"
  mv "$work/package/lib/libkrun.so.$release" "$library"
fi
printf '%s\n' "$library"
