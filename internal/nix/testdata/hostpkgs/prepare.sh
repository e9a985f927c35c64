#!/bin/sh
# prepare.sh FOLDER: makes a flake in FOLDER that stands in for nixpkgs, from programs of this
# host: a static busybox, and GNU tar with the libraries it needs. It prints what is missing and
# ends with 1 when this host has not got them.
set -eu
here=$(dirname "$0")
to=$1

busybox=
for b in /bin/busybox /usr/bin/busybox; do
  # Only a static one runs without a store path of its own for each library.
  if [ -x "$b" ] && ! ldd "$b" >/dev/null 2>&1; then busybox=$b; fi
done
[ -n "$busybox" ] || { echo "a static busybox (Debian: apt-get install busybox-static)"; exit 1; }
for applet in httpd wget find; do
  "$busybox" --list | grep -qx "$applet" || { echo "a busybox with $applet"; exit 1; }
done
tar=$(command -v tar)
"$tar" --version | grep -q 'GNU tar' || { echo "GNU tar"; exit 1; }

mkdir -p "$to/bin" "$to/gnutar"
cp "$here/flake.nix" "$to/"
cp "$busybox" "$to/bin/busybox"
cp -L "$tar" "$to/gnutar/tar"
# The loader is the one library with a path of its own.
loader=
for lib in $(ldd "$tar" | sed -n 's/^[^/]*\(\/[^ ]*\).*/\1/p'); do
  cp -L "$lib" "$to/gnutar/"
  case $lib in */ld-*) loader=${lib##*/} ;; esac
done
[ -n "$loader" ] || { echo "GNU tar with a loader that ldd names"; exit 1; }
# flake.nix puts the store path in for @lib@.
echo "exec @lib@/$loader --library-path @lib@ @lib@/tar \"\$@\"" >"$to/gnutar/start"
chmod -R u+w "$to"
