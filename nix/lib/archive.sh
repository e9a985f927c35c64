# Makes $out: rootfs.tar with $skeleton/root as / and the closure of $skeleton at its own paths,
# and the two descriptions. The same parts give the same bytes: names are sorted, times are 1,
# owners are numbers, and hard links that a store's optimiser made are not seen.
umask 022
mkdir "$out" root
cp "$skeleton/image.json" "$skeleton/guest.json" "$out/"
cp -a "$skeleton/root/." root/
chmod -R u+w root
mkdir -p "root$store"

# In the graph: a path, its deriver (empty), the number of its references, the references.
while read -r path; do
  read -r _ || true
  read -r count
  while [ "$count" -gt 0 ]; do
    read -r _
    count=$((count - 1))
  done
  [ "$path" = "$skeleton" ] || echo "${path#/}"
done <closure | sort >paths

# One archive of runs: names in order, each run what has the same account and mode. GNU tar gives
# all names of a call the same; and Nix lets no build set a set-group-id bit on a file itself.
(cd root && find . -mindepth 1) | sort | awk -v owned="$skeleton/owned" '
  BEGIN {
    while ((getline line < owned) > 0) { split(line, f, " "); owner["." f[1]] = f[2] " " f[3] }
    last = ""
  }
  {
    o = ($0 in owner) ? owner[$0] : "0:0 -"
    if (o != last) { n++; last = o; print n, o > "runs" }
    print substr($0, 3) > ("run" n)
  }'

# Numbers as NAME:NUMBER: GNU tar 1.34 takes +NUMBER for a name, and writes 0.
archive() { # archive UID:GID MODE [TAR-OPTION...]
  owner=$1
  [ "$2" = - ] || set -- "$@" --mode="$2"
  shift 2
  "$gnutar/bin/tar" --append --file "$out/rootfs.tar" --format=gnu --numeric-owner --owner="u:${owner%:*}" \
    --group="g:${owner#*:}" --mtime=@1 --sort=name --hard-dereference --verbatim-files-from "$@"
}
while read -r n owner mode; do
  archive "$owner" "$mode" --directory=root --no-recursion --files-from="run$n"
done <runs
archive 0:0 - --directory=/ --files-from=paths
