#!/usr/bin/env bash
# Builds what is shipped and measures it. Arguments go to the program in ./bench (try --help).
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"
scripts/build.sh
# Not `go run`: a signal would end that, and leave the measuring itself at work.
go build -o bin/bench ./bench
exec bin/bench "$@"
