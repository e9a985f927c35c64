# Makes $out: root/ (the file system without the store), image.json, guest.json, and owned: a line
# "PATH UID:GID MODE" for what does not belong to root, or has a mode of its own.
umask 022
mkdir -p "$out/root"
cd "$out/root"
mkdir -p bin dev etc home mnt proc root run sys tmp usr var/cache var/empty var/lib var/log var/tmp
ln -s bin sbin
ln -s ../bin usr/bin
ln -s ../bin usr/sbin
ln -s ../run var/run

# put PATH FROM: a file or folder of the image. What another file needs as a folder is made.
put() {
  mkdir -p ".${1%/*}"
  cp -RL "$2" ".$1"
  chmod -R u+w ".$1"
}

# The first package that has a program of a name gives it.
for package in $packages; do
  for program in "$package"/bin/* "$package"/sbin/*; do
    to=bin/${program##*/}
    if { [ -e "$program" ] || [ -L "$program" ]; } && [ ! -e "$to" ] && [ ! -L "$to" ]; then
      ln -s "$program" "$to"
    fi
  done
done

cp "$passwdPath" etc/passwd
cp "$groupPath" etc/group
echo 'hosts: files dns' >etc/nsswitch.conf
printf 'NAME="mvm guest"\nID=mvm\n' >etc/os-release
if [ -n "$cacert" ]; then
  mkdir -p etc/ssl/certs
  ln -s "$cacert/etc/ssl/certs/ca-bundle.crt" etc/ssl/certs/ca-bundle.crt
  ln -s ca-bundle.crt etc/ssl/certs/ca-certificates.crt
fi
for directory in $directories; do
  mkdir -p ".$directory"
done
. "$putsPath"

cp "$imagePath" "$out/image.json"
cp "$guestPath" "$out/guest.json"
{
  echo '/root 0:0 0700'
  echo '/tmp 0:0 1777'
  echo '/var/tmp 0:0 1777'
  cat "$ownedPath"
} >"$out/owned"
