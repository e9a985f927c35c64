# Sourced by the other scripts: where the repository is, and the tools that dev-setup.sh put
# into it first in PATH. Changes nothing outside the calling shell.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/.tools
export ROOT TOOLS

# Pinned versions of the tools that dev-setup.sh installs into .tools.
JUST_VERSION=1.57.0
GOLANGCI_LINT_VERSION=v2.15.0
GO_BOOTSTRAP_VERSION=go1.26.8
GO_MINIMUM=1.26
export JUST_VERSION GOLANGCI_LINT_VERSION GO_BOOTSTRAP_VERSION GO_MINIMUM

PATH=$TOOLS/bin:$TOOLS/go/bin:$PATH
# The places of Go's own installer and of Homebrew, for shells that do not have them.
for dir in /usr/local/go/bin /opt/homebrew/bin /usr/local/sbin /usr/sbin /sbin; do
  case ":$PATH:" in
    *":$dir:"*) ;;
    *) [ -d "$dir" ] && PATH=$PATH:$dir ;;
  esac
done
unset dir
export PATH

# Everything is built without cgo, on every machine, so that what is tested is what is shipped.
export CGO_ENABLED=0

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
