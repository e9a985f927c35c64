# From checked parts to $out: rootfs.tar, image.json and guest.json.
#
# Two steps. The first makes the skeleton: links, files of /etc, the configuration. Nix finds the
# store paths in it, whether they come from packages or only from a command. The second asks for
# the closure of the first (exportReferencesGraph, which Nix has from 1.x to today) and writes
# everything into one archive, because a store path can carry neither owners nor modes.
{ pkgs, fail, name, packages, files, directories, passwd, group, cacert, configuration }:
let
  inherit (builtins) concatStringsSep genList length listToAttrs map;

  # Tools run where the build runs, the guest where its own system says.
  tools = pkgs.buildPackages or pkgs;
  systemOf = p: which:
    p.stdenv.${which}.system or (p.system or (fail "pkgs" "it has neither stdenv nor system"));
  system = systemOf pkgs "hostPlatform";
  need = n: tools.${n} or (fail "pkgs" "it has no ${n}, which the build needs");

  supported = [ "x86_64-linux" "aarch64-linux" ];

  count = length files;
  numbers = genList (i: i) count;
  file = builtins.elemAt files;
  texts = listToAttrs (builtins.filter (x: x.value != null)
    (map (i: { name = "text${toString i}"; value = (file i).text; }) numbers));

  # Paths, modes and numbers were checked to need no quoting; contents come from files.
  puts = map
    (i:
      let f = file i; from = if f.source != null then f.source else "$text${toString i}Path"; in
      "put \"${f.path}\" \"${from}\"")
    numbers;
  owned = map (d: "${d.path} ${toString d.uid}:${toString d.gid} ${d.mode}") directories
    ++ map (f: "${f.path} ${toString f.uid}:${toString f.gid} ${if f.mode == null then "-" else f.mode}") files;

  base = {
    system = systemOf tools "buildPlatform";
    builder = "${need "busybox"}/bin/sh";
    PATH = "${need "busybox"}/bin";
    LC_ALL = "C";
    # Nothing here is worth fetching from elsewhere or building elsewhere.
    preferLocalBuild = true;
    allowSubstitutes = false;
  };

  skeleton = derivation (base // texts // {
    name = "${name}-skeleton";
    args = [ "-eu" ./skeleton.sh ];
    packages = concatStringsSep " " packages;
    cacert = if cacert == null then "" else "${cacert}";
    directories = concatStringsSep " " (map (d: d.path) directories);
    puts = concatStringsSep "\n" puts;
    owned = concatStringsSep "" (map (s: s + "\n") owned);
    image = builtins.toJSON configuration;
    guest = builtins.toJSON { schema = 1; inherit name system; };
    inherit passwd group;
    passAsFile = builtins.attrNames texts ++ [ "puts" "owned" "image" "guest" "passwd" "group" ];
  });
in
if !(builtins.elem system supported)
then fail "pkgs" "it is for ${system}; microVMs run ${concatStringsSep " or " supported}"
else derivation (base // {
  name = "${name}-image";
  args = [ "-eu" ./archive.sh ];
  inherit skeleton;
  gnutar = need "gnutar"; # by its full path: a shell of busybox may prefer its own tar
  store = builtins.storeDir;
  exportReferencesGraph = [ "closure" skeleton ];
}) // { inherit configuration; guestSystem = system; }
