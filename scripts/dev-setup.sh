#!/usr/bin/env bash
# Installs what mvmctl needs to run and to be tested, and says what it does. Run it as often
# as you like: what is there already is left alone.
#
#   scripts/dev-setup.sh           for running and testing (QEMU, e2fsprogs, just, Go)
#   scripts/dev-setup.sh --run     only for running (QEMU, Go)
#   scripts/dev-setup.sh --lint    also the linters (golangci-lint, shellcheck); takes minutes
#   scripts/dev-setup.sh --check   install nothing; report, and exit 1 if something is missing
#
# Debian and Ubuntu: apt, with sudo where needed. macOS: Homebrew. Elsewhere it prints the
# packages to install. The guest kernel is not installed: mvmctl downloads and unpacks one by
# itself when it first needs it.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

level='test'
check=false
export LC_ALL=C # we read what apt and dpkg print
for arg in "$@"; do
  case $arg in
    --run) level=run ;;
    --lint) level=lint ;;
    --check) check=true ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown option $arg; see scripts/dev-setup.sh --help" ;;
  esac
done

missing=0   # things that are required and not there after all
changed=0   # things we installed

ok() { say "  ok       $1"; }
lacking() { say "  missing  $1"; missing=$((missing + 1)); }
optional() { say "  optional $1"; }
installing() { say "  install  $1"; changed=$((changed + 1)); }

# as_root runs a command as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "this needs root and there is no sudo; as root, run: $*"
  fi
}

# --- Go -----------------------------------------------------------------------------------

# go_version prints the version that builds this module ("1.26.8"), or nothing. A Go of 1.21
# or later fetches the toolchain that go.mod asks for by itself, unless that is switched off.
go_version() {
  have go || return 0
  (cd "$ROOT" && go env GOVERSION 2>/dev/null) | sed -n 's/^go\([0-9.]*\).*/\1/p'
}

at_least() { # at_least HAVE WANT
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

go_fits() {
  local v
  v=$(go_version)
  [ -n "$v" ] && at_least "$v" "$GO_MINIMUM"
}

setup_go() {
  if go_fits; then
    ok "Go $(go_version)"
    return
  fi
  local found
  found=$(have go && go version 2>/dev/null || echo none)
  if $check; then
    lacking "Go $GO_MINIMUM or later (found: $found): https://go.dev/dl/"
    return
  fi
  case $system in
    apt)
      have go || apt_install golang-go ca-certificates
      go_fits || bootstrap_go
      ;;
    brew) installing "go (Homebrew)"; brew install --quiet go ;;
  esac
  go_fits || die "Go $GO_MINIMUM or later is needed (found: $found). Install it from https://go.dev/dl/ and run this again."
  ok "Go $(go_version)"
}

# bootstrap_go gets the toolchain as a Go module into .tools/go. A distribution's Go can be too
# old to do that by itself (before 1.21), but it can download the module, and checks it against
# the checksum database as it does with every other.
bootstrap_go() {
  installing "$GO_BOOTSTRAP_VERSION into .tools/go, through the Go module proxy"
  local scratch answer src
  scratch=$(mktemp -d)
  # In an empty folder: an old Go cannot read our go.mod.
  answer=$(cd "$scratch" && GO111MODULE=on GOFLAGS='' go mod download -json \
    "golang.org/toolchain@v0.0.1-$GO_BOOTSTRAP_VERSION.$(go env GOOS)-$(go env GOARCH)" 2>&1) || true
  rm -rf "$scratch"
  src=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)".*/\1/p' <<<"$answer")
  if [ -z "$src" ]; then
    say "$answer"
    return
  fi
  rm -rf "$TOOLS/go.new"
  mkdir -p "$TOOLS"
  cp -R "$src" "$TOOLS/go.new"
  chmod -R u+w "$TOOLS/go.new"
  # Module archives carry no execute bits.
  find "$TOOLS/go.new/bin" "$TOOLS/go.new/pkg/tool" -type f -exec chmod a+x {} +
  rm -rf "$TOOLS/go"
  mv "$TOOLS/go.new" "$TOOLS/go"
  hash -r
}

# --- Debian and Ubuntu --------------------------------------------------------------------

apt_updated=false
apt_update() {
  $apt_updated && return
  installing "apt package lists (apt-get update)"
  as_root apt-get update -qq
  apt_updated=true
}

# No "grep -q" behind a pipe in these scripts: it ends early, and with pipefail the writer's
# SIGPIPE would count as a failure.
apt_candidate() { apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [^(]' >/dev/null; }

apt_install() {
  local package
  for package in "$@"; do
    apt_candidate "$package" || { apt_update; break; }
  done
  installing "$* (apt)"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    { apt_update; as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}

# apt_need PROGRAM PACKAGE WHY
apt_need() {
  if have "$1"; then
    ok "$1 ($3)"
  elif $check; then
    lacking "$1 ($3): apt-get install $2"
  else
    wanted+=("$2")
  fi
}

kernel_package() {
  local arch
  arch=$(dpkg --print-architecture)
  if grep -qs '^ID=ubuntu' /etc/os-release; then
    echo linux-image-virtual
  else
    echo "linux-image-cloud-$arch"
  fi
}

# kernel_tools asks for what `mvmctl kernel build` compiles with.
kernel_tools() {
  local why='builds the guest kernel of mvmctl kernel build' program
  for program in make gcc flex bison bc perl lz4; do
    apt_need "$program" "$program" "$why"
  done
  apt_need awk mawk "$why"
  apt_need ld binutils "$why"
  need_header stdio.h libc6-dev "$why"
  [ "$(uname -m)" != x86_64 ] || need_header gelf.h libelf-dev "$why"
}

# need_header HEADER PACKAGE WHY
need_header() {
  if [ -e "/usr/include/$1" ]; then
    ok "$1 ($3)"
  elif $check; then
    lacking "$1 ($3): apt-get install $2"
  else
    wanted+=("$2")
  fi
}

setup_apt() {
  wanted=()
  case $(uname -m) in
    x86_64) apt_need qemu-system-x86_64 qemu-system-x86 "runs the microVMs" ;;
    aarch64) apt_need qemu-system-aarch64 qemu-system-arm "runs the microVMs" ;;
    *) die "machines of type $(uname -m) are not supported; x86_64 and aarch64 are" ;;
  esac
  if [ "$level" != run ]; then
    apt_need e2fsck e2fsprogs "checks our disk images in tests; mvmctl itself does not use it"
    apt_need git git "tests"
    kernel_tools
    apt_need nix nix-bin "builds guests from flakes"
    apt_need cpio cpio "packs a guest in tests of microvm.nix's machines"
    apt_need busybox busybox-static "stands in for nixpkgs in tests of flakes"
    # On a host with systemd the package starts it as a service, which no test uses.
    apt_need docker-registry docker-registry "the registry that tests pull images from"
    apt_need debootstrap debootstrap "makes the Debian that tests boot"
    optional "limactl and an image for it, for the tests of the Lima backend: scripts/lima-image.sh (and apt-get install qemu-utils openssh-client)"
    apt_need redis-cli redis-tools "reaches a machine's Redis in tests"
    apt_need curl curl "reaches a machine's web server in tests"
    if have dockerd; then
      ok "dockerd (tests take images out of an engine of their own)"
    elif [ "${CI:-}" = true ]; then
      apt_need dockerd docker.io "tests take images out of an engine of their own"
    else
      optional "dockerd, for the tests that take images out of an engine: apt-get install docker.io"
    fi
  fi
  [ "$level" != lint ] || apt_need shellcheck shellcheck "lints the scripts"
  [ ${#wanted[@]} -eq 0 ] || apt_install "${wanted[@]}"

  local kernel
  kernel=$(kernel_package)
  if apt_candidate "$kernel"; then
    ok "apt knows $kernel (mvmctl downloads the guest kernel from it, nothing is installed)"
  elif $check; then
    lacking "apt does not know $kernel: apt-get update"
  else
    apt_update
    apt_candidate "$kernel" || optional "apt does not know $kernel; give mvmctl a kernel by path (mvmctl kernel list shows what it finds)"
  fi
}

# --- macOS --------------------------------------------------------------------------------

setup_brew() {
  have brew || die "Homebrew is needed to install QEMU: https://brew.sh"
  local formulas=(qemu) formula
  [ "$level" = run ] || formulas+=(e2fsprogs just)
  [ "$level" != lint ] || formulas+=(shellcheck golangci-lint)
  for formula in "${formulas[@]}"; do
    if brew list --formula "$formula" >/dev/null 2>&1; then
      ok "$formula"
    elif $check; then
      lacking "$formula: brew install $formula"
    else
      installing "$formula (Homebrew)"
      brew install --quiet "$formula"
    fi
  done
}

# --- other Linux --------------------------------------------------------------------------

setup_other() {
  local qemu
  qemu=qemu-system-$(uname -m)
  if have "$qemu"; then
    ok "$qemu"
  else
    lacking "$qemu"
  fi
  if [ "$level" != run ]; then
    if have e2fsck; then ok e2fsck; else lacking "e2fsck"; fi
  fi
  [ "$missing" -eq 0 ] && return
  say ""
  say "Install what is missing with your package manager, then run this again:"
  case $(uname -m) in
    aarch64)
      say "  Fedora, RHEL:  sudo dnf install qemu-system-aarch64-core e2fsprogs"
      say "  Arch:          sudo pacman -S qemu-system-aarch64 e2fsprogs"
      say "  openSUSE:      sudo zypper install qemu-arm e2fsprogs"
      say "  Alpine:        sudo apk add qemu-system-aarch64 e2fsprogs"
      ;;
    *)
      say "  Fedora, RHEL:  sudo dnf install qemu-system-x86-core e2fsprogs"
      say "  Arch:          sudo pacman -S qemu-system-x86 e2fsprogs"
      say "  openSUSE:      sudo zypper install qemu-x86 e2fsprogs"
      say "  Alpine:        sudo apk add qemu-system-x86_64 e2fsprogs"
      ;;
  esac
}

# --- project tools ------------------------------------------------------------------------

# setup_just: just is a convenience (every recipe is one of our scripts or one go command), so
# its absence is never an error.
setup_just() {
  if have just; then
    ok "just ($(just --version 2>/dev/null))"
    return
  fi
  if $check || ! have npm; then
    optional "just, to run the recipes of the Justfile: https://just.systems (the scripts do without it)"
    return
  fi
  installing "just $JUST_VERSION into .tools (npm package rust-just)"
  mkdir -p "$TOOLS/bin"
  if npm install --prefix "$TOOLS/npm" --no-save --no-audit --no-fund --loglevel=error "rust-just@$JUST_VERSION" >/dev/null; then
    local native
    native=$(cd "$TOOLS/bin" && find ../npm/node_modules -path '*/rust-just-*/*' -name just -type f 2>/dev/null | head -n 1)
    ln -sf "${native:-../npm/node_modules/.bin/just}" "$TOOLS/bin/just"
    have just && ok "$(just --version); to type it yourself: export PATH=\"$TOOLS/bin:\$PATH\""
  else
    optional "npm could not fetch just; the scripts do without it"
  fi
}

setup_lint() {
  if have golangci-lint && golangci-lint version 2>/dev/null | grep -F "${GOLANGCI_LINT_VERSION#v}" >/dev/null; then
    ok "golangci-lint $GOLANGCI_LINT_VERSION"
    return
  fi
  if $check; then
    optional "golangci-lint $GOLANGCI_LINT_VERSION: scripts/dev-setup.sh --lint"
    return
  fi
  installing "golangci-lint $GOLANGCI_LINT_VERSION into .tools (go install; one to three minutes)"
  mkdir -p "$TOOLS/bin"
  # Outside the module: its dependencies are none of ours.
  (cd / && GOBIN=$TOOLS/bin GOFLAGS='' go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_LINT_VERSION")
}

# report_kvm says what stands between this user and fast machines. It changes nothing: who may
# use /dev/kvm is for the administrator to say.
report_kvm() {
  [ "$(uname -s)" = Linux ] || return 0
  if [ ! -e /dev/kvm ]; then
    say "  note     no /dev/kvm: QEMU will emulate (slower, and no security boundary)"
  elif [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
    say "  note     /dev/kvm is not open to you: sudo usermod -aG kvm $(id -un), then log in again"
  fi
}

case $(uname -s) in
  Darwin) system=brew ;;
  Linux) if have apt-get && have dpkg; then system=apt; else system=other; fi ;;
  *) die "$(uname -s) is not supported; Linux and macOS are" ;;
esac

say "Setting up for mvmctl ($system, level: $level)"
case $system in
  apt) setup_apt ;;
  brew) setup_brew ;;
  other) setup_other ;;
esac
setup_go
[ "$level" = run ] || setup_just
[ "$level" != lint ] || setup_lint
report_kvm

if [ "$missing" -gt 0 ]; then
  say "$missing missing."
  exit 1
fi
if [ "$changed" -gt 0 ]; then say "Done."; else say "Nothing to do."; fi
