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

while read -r path _ mode; do
  if [ "$mode" != - ]; then chmod "$mode" "root$path"; fi
done <"$skeleton/owned"

# One archive of runs: names in order, each run what belongs to the same account. GNU tar gives
# all names of a call the same owner.
(cd root && find . -mindepth 1) | sort | awk -v owned="$skeleton/owned" '
  BEGIN {
    while ((getline line < owned) > 0) { split(line, f, " "); owner["." f[1]] = f[2] }
    last = ""
  }
  {
    o = ($0 in owner) ? owner[$0] : "0:0"
    if (o != last) { n++; last = o; print n, o > "runs" }
    print substr($0, 3) > ("run" n)
  }'

archive() { # archive UID:GID [TAR-OPTION...]
  owner=$1
  shift
  "$gnutar/bin/tar" --append --file "$out/rootfs.tar" --format=gnu --numeric-owner --owner="+${owner%:*}" \
    --group="+${owner#*:}" --mtime=@1 --sort=name --hard-dereference --verbatim-files-from "$@"
}
while read -r n owner; do
  archive "$owner" --directory=root --no-recursion --files-from="run$n"
done <runs
archive 0:0 --directory=/ --files-from=paths
