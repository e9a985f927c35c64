#!/usr/bin/env bash
# Makes what the tests of the Lima backend need: limactl, from the module proxy, in .tools/bin, and the
# image that they boot in .tools/lima, Debian with cloud-init, sshd and QEMU, its kernel and initramfs
# beside it. Needs root, debootstrap and e2fsprogs; takes three minutes, and 1 GB. What is there is not
# made again.
#
#   scripts/lima-image.sh [DIR]
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

dir=${1:-$TOOLS/lima}
if ! have limactl && ! [ -x "$TOOLS/bin/limactl" ]; then
  (
    # A module of its own, whose go.sum has the checksums of all that is fetched.
    cd "$ROOT/scripts/limactl"
    export GOFLAGS=-mod=readonly
    version=$(go list -m -f '{{.Version}}' github.com/lima-vm/lima)
    mkdir -p "$TOOLS/bin" "$TOOLS/share/lima"
    # It wants its guest agent there, also for a plain virtual machine, which does not run it.
    GOOS=linux go build -trimpath -ldflags='-s -w' -o "$TOOLS/share/lima/lima-guestagent.Linux-x86_64" github.com/lima-vm/lima/cmd/lima-guestagent
    go build -trimpath -ldflags="-s -w -X github.com/lima-vm/lima/pkg/version.Version=${version#v}" -o "$TOOLS/bin/limactl" github.com/lima-vm/lima/cmd/limactl
  )
fi
[ ! -s "$dir/disk.raw" ] || exit 0
[ "$(id -u)" = 0 ] || die "this needs root: debootstrap makes device nodes"
for tool in debootstrap mke2fs unshare chroot; do
  have "$tool" || die "there is no $tool: apt-get install debootstrap e2fsprogs"
done
mkdir -p "$dir"
work=$(mktemp -d "$dir/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

debootstrap --variant=minbase \
  --include=systemd,systemd-sysv,dbus,openssh-server,sudo,linux-image-cloud-amd64,initramfs-tools,qemu-system-x86,qemu-system-data,seabios,iproute2,netplan.io,ca-certificates,udev,kmod,procps \
  bookworm "$root" "$mirror" >&2
# debootstrap does not see that a virtual package satisfies a dependency of cloud-init's; apt does.
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
# In a mount namespace of its own: whatever happens, nothing stays mounted.
# shellcheck disable=SC2016 # the inner shell expands it
ROOTFS=$root DEBIAN_FRONTEND=noninteractive unshare -m bash -euc '
  mount -t proc proc "$ROOTFS/proc"
  mount -t devtmpfs dev "$ROOTFS/dev"
  mkdir -p "$ROOTFS/dev/pts"; mount -t devpts devpts "$ROOTFS/dev/pts"
  chroot "$ROOTFS" sh -euc "apt-get -q update && apt-get -q -y --no-install-recommends install cloud-init && apt-get clean"
  chroot "$ROOTFS" systemctl -q enable systemd-networkd
' >&2
rm -rf "$root"/var/lib/apt/lists/* "$root"/etc/ssh/ssh_host_*
printf '/dev/vda / ext4 defaults 0 1\n' >"$root/etc/fstab"
printf 'datasource_list: [ NoCloud ]\n' >"$root/etc/cloud/cloud.cfg.d/90-lima.cfg"
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd"
truncate -s 3G "$work/disk.raw"
mke2fs -q -t ext4 -L root -d "$root" "$work/disk.raw"
chmod 644 "$work"/vmlinuz "$work"/initrd "$work"/disk.raw
mv "$work/vmlinuz" "$work/initrd" "$dir/"
mv "$work/disk.raw" "$dir/" # last: it says that all is there
