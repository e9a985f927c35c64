# mkGuest: packages, services and accounts → the root file system of a microVM.
#
# A plain function of its arguments. Of pkgs it uses busybox (the guest's shell, and the tools of
# the build), gnutar, cacert where there is one, and the system; so a small set of one's own does
# as well as nixpkgs. docs/nix.md says what each argument means.
args:
let
  inherit (builtins) attrNames attrValues concatLists concatStringsSep elem filter foldl'
    hasAttr isList isString length listToAttrs mapAttrs removeAttrs;

  guest = if builtins.isAttrs args && builtins.isString (args.name or null) then args.name else "?";
  fail = where: message: throw "mkGuest: ${guest}: ${where}: ${message}";
  check = import ./check.nix { inherit fail; };

  arguments = [
    "pkgs" "name" "packages" "services" "healthChecks" "users" "include" "hostname" "serviceGroup"
    "env" "files" "directories" "security" "kernel" "shell" "cacert"
    "entrypoint" "command" "workingDir" "user" "stopSignal" "ports" "volumes" "init"
  ];
  need = n: if hasAttr n args then args.${n} else fail n "this argument is required";
  pkgs = need "pkgs";

  # --- parts that come from several places ---------------------------------------------------

  included = map
    (fragment: check.only "include" [ "packages" "services" "healthChecks" "users" "files" "directories" "env" "ports" "volumes" ] fragment)
    (check.list "include" (args.include or [ ]));
  sources = [ args ] ++ included;

  # merged joins sets of one argument; a name in two of them is a mistake, never an override.
  merged = n: foldl'
    (acc: part:
      let
        here = check.attrs n (part.${n} or { });
        twice = filter (k: hasAttr k acc) (attrNames here);
      in
      if twice == [ ] then acc // here
      else fail "${n}.${builtins.head twice}" "this name is defined twice, once here and once in include")
    { }
    sources;
  joined = n: concatLists (map (part: check.list n (part.${n} or [ ])) sources);

  # --- accounts ------------------------------------------------------------------------------

  serviceGroup = check.account "serviceGroup" (args.serviceGroup or "service");
  serviceId = 900;

  declared = mapAttrs
    (n: u:
      let w = "users.${n}"; in
      builtins.seq (check.account w n) (
        if n == "root" then fail w "root exists already and cannot be redefined"
        else if n == serviceGroup then fail w "this account exists already: it is the serviceGroup"
        else check.only w [ "uid" "gid" "home" "shell" "groups" ] u))
    (merged "users");

  # Numbers are given out from 1000 in the order of names, around those that are taken.
  taken = map (n: declared.${n}.uid) (filter (n: declared.${n} ? uid) (attrNames declared));
  nextFree = from: if elem from taken then nextFree (from + 1) else from;
  numbered = (foldl'
    (acc: n:
      if declared.${n} ? uid then acc // { ids = acc.ids // { ${n} = check.int "users.${n}.uid" 1 65533 declared.${n}.uid; }; }
      else let id = nextFree acc.next; in { next = id + 1; ids = acc.ids // { ${n} = id; }; })
    { next = 1000; ids = { }; }
    (attrNames declared)).ids;

  shellPath = if shell == null then "/sbin/nologin" else "/bin/sh";
  users = mapAttrs
    (n: u: {
      name = n;
      uid = numbered.${n};
      gid = check.int "users.${n}.gid" 1 65533 (u.gid or numbered.${n});
      home = check.path "users.${n}.home" (u.home or "/home/${n}");
      shell = check.path "users.${n}.shell" (u.shell or shellPath);
      groups = map (check.account "users.${n}.groups") (check.list "users.${n}.groups" (u.groups or [ ]));
    })
    declared // {
    ${serviceGroup} = {
      name = serviceGroup; uid = serviceId; gid = serviceId;
      home = "/var/lib/${serviceGroup}"; shell = shellPath; groups = [ ];
    };
  };

  sameNumber = filter
    (n: length (filter (m: users.${m}.uid == users.${n}.uid) (attrNames users)) > 1)
    (attrNames users);

  accountNames = [ "root" ] ++ attrNames users;
  knownUser = where: n:
    if elem (check.string where n) accountNames then n
    else fail where "there is no user \"${n}\"; there are: ${concatStringsSep ", " accountNames}; declare it: users.${n} = { };";

  # Every service's user is in the service group: it may read the machine's secrets.
  members = filter (n: n != "root" && n != serviceGroup)
    (attrNames (listToAttrs (map (s: { name = s.user; value = null; }) (attrValues services))));

  groupIds = { root = 0; } // mapAttrs (_: u: u.gid) users;
  groupOf = where: n:
    if hasAttr (check.string where n) groupIds then n
    else fail where "there is no group \"${n}\"; there are: ${concatStringsSep ", " (attrNames groupIds)}";

  lines = l: concatStringsSep "" (map (s: s + "\n") l);
  passwd = lines ([ "root:x:0:0:root:/root:${shellPath}" ]
    ++ map (u: "${u.name}:x:${toString u.uid}:${toString u.gid}::${u.home}:${u.shell}") (attrValues users));
  group = lines (map
    (n:
      let
        more = filter (m: elem n users.${m}.groups) (attrNames users);
        own = if n == serviceGroup then filter (m: !(elem m more)) members else [ ];
      in
      "${n}:x:${toString groupIds.${n}}:${concatStringsSep "," (more ++ own)}")
    (attrNames groupIds)
    # The agent gives a machine's secrets to the group of this name, so the number has it too.
    ++ (if hasAttr "service" groupIds then [ ] else [ "service:x:${toString serviceId}:" ]));

  # --- services and checks -------------------------------------------------------------------

  optional = cond: value: if cond then value else { };
  # given copies an argument that is there, checked, under the name that the agent knows.
  given = where: set: from: to: f: optional (set ? ${from} && set.${from} != null) { ${to} = f "${where}.${from}" set.${from}; };
  hasShell = shell != null;

  services = mapAttrs
    (n: s:
      let w = "services.${n}"; g = given w s; in
      builtins.seq (check.name w n) (
        builtins.seq (check.only w [
          "command" "preStart" "env" "user" "logFile" "restart" "workingDir" "stopTimeout"
          "stopSignal" "backoffMax" "startGrace" "maxRestarts"
        ] s) (
          {
            name = n;
            args = check.command "${w}.command" hasShell (s.command or (fail "${w}.command" "this argument is required"));
            user = knownUser "${w}.user" (s.user or serviceGroup);
          }
          // g "preStart" "pre_start" (where: check.command where hasShell)
          // g "env" "env" check.env
          // g "logFile" "log_file" check.path
          // g "restart" "restart" (where: check.oneOf where [ "always" "on-failure" "never" ])
          // g "workingDir" "dir" check.path
          // g "stopTimeout" "stop_timeout" check.duration
          // g "stopSignal" "stop_signal" signal
          // g "backoffMax" "backoff_max" check.duration
          // g "startGrace" "start_grace" check.duration
          // g "maxRestarts" "max_restarts" (where: check.int where 0 1000000)
        )))
    (merged "services");

  signal = where: check.matching where "SIG[A-Z0-9]+" "write it like \"SIGTERM\"";

  checks = mapAttrs
    (n: c:
      let w = "healthChecks.${n}"; g = given w c; in
      builtins.seq (check.name w n) (
        builtins.seq (check.only w [ "command" "kind" "service" "interval" "timeout" "grace" "retries" ] c) (
          {
            name = n;
            command = check.command "${w}.command" hasShell (c.command or (fail "${w}.command" "this argument is required"));
          }
          // g "kind" "kind" (where: check.oneOf where [ "health" "probe" ])
          // g "service" "service" (where: s:
            if hasAttr (check.string where s) services then s
            else fail where "there is no service \"${s}\"; there are: ${concatStringsSep ", " (attrNames services)}")
          // g "interval" "interval" check.duration
          // g "timeout" "timeout" check.duration
          // g "grace" "grace" check.duration
          // g "retries" "retries" (where: check.int where 0 1000)
        )))
    (merged "healthChecks");

  # --- what is in the file system ------------------------------------------------------------

  shell = if args ? shell then args.shell else pkgs.busybox;
  cacert = if args ? cacert then args.cacert else pkgs.cacert or null;
  # The output of a package that has the programs.
  programs = p: if p.outputSpecified or false then p else p.bin or p.out or p;
  packages = map
    (p: if check.isDerivation p then "${programs p}" else check.text "packages" p)
    (joined "packages" ++ (if shell == null then [ ] else [ shell ]));

  owner = where: f: {
    user = knownUser "${where}.user" (f.user or "root");
    group = groupOf "${where}.group" (f.group or (f.user or "root"));
  };
  ids = o: { uid = if o.user == "root" then 0 else users.${o.user}.uid; gid = groupIds.${o.group}; };

  files = map
    (n:
      let
        f = (merged "files").${n};
        set = if builtins.isAttrs f && !check.isDerivation f then check.only w [ "text" "source" "mode" "user" "group" ] f else { text = check.text w f; };
        w = "files.${n}";
        path = check.path w (if builtins.substring 0 1 n == "/" then n else "/etc/${n}");
      in
      if (set ? text) == (set ? source) then fail w "give either text or source"
      else if elem path [ "/etc/passwd" "/etc/group" ] then fail w "it is written from users"
      else {
        inherit path;
        text = if set ? text then check.text "${w}.text" set.text else null;
        source = if set ? source then check.text "${w}.source" set.source else null;
        mode = if set ? mode then check.mode "${w}.mode" set.mode else null;
      } // ids (owner w set))
    (attrNames (merged "files"));

  directories =
    map (u: { path = u.home; mode = "0750"; inherit (u) uid gid; }) (attrValues users)
    ++ map
      (n:
        let w = "directories.${n}"; d = check.only w [ "mode" "user" "group" ] (merged "directories").${n}; in
        { path = check.path w n; mode = check.mode "${w}.mode" (d.mode or "0755"); } // ids (owner w d))
      (attrNames (merged "directories"));

  # --- the image's configuration, in the shape of mvmctl's image manifest --------------------

  security = check.only "security" [ "access" ] (args.security or { });
  access =
    let a = check.only "security.access" rights security.access; rights = [ "console" "exec" "copy" "forward" ]; in
    listToAttrs (map (n: { name = n; value = check.bool "security.access.${n}" (a.${n} or true); }) rights);

  top = given "mkGuest" args;
  nonEmpty = n: value: optional (value != [ ] && value != { }) { ${n} = value; };
  config =
    { hostname = check.hostname "hostname" (args.hostname or guest); }
    // nonEmpty "env" (check.env "env" (merged "env"))
    // nonEmpty "users" (map (u: removeAttrs u [ "groups" ]) (attrValues users))
    // nonEmpty "services" (limit "services" (attrValues services))
    // nonEmpty "checks" (limit "healthChecks" (attrValues checks))
    // nonEmpty "ports" (map port (joined "ports"))
    // nonEmpty "volumes" (map (check.path "volumes") (joined "volumes"))
    // top "entrypoint" "entrypoint" check.words
    // top "command" "command" check.words
    // top "workingDir" "dir" check.path
    // top "user" "user" knownUser
    // top "stopSignal" "stop_signal" signal
    // top "init" "init" check.path
    // top "kernel" "kernel" (where: check.matching where "[A-Za-z0-9][A-Za-z0-9._+-]*" "give the id of a kernel, as mvmctl kernel list shows it")
    // optional (security ? access) { inherit access; };

  port = p:
    if builtins.isInt p then "${toString (check.int "ports" 1 65535 p)}/tcp"
    else check.matching "ports" "[1-9][0-9]{0,4}/(tcp|udp)" "write it like 80 or \"53/udp\"" p;
  maxServices = 256; # as the agent's protocol has it
  limit = where: l:
    if length l > maxServices then fail where "there are ${toString (length l)}; a machine has at most ${toString maxServices}" else l;

  valid =
    if !builtins.isAttrs args then throw "mkGuest: it takes one set of arguments"
    else builtins.seq (need "name") (
      builtins.seq (check.name "name" args.name) (
        builtins.seq (check.only "arguments" arguments args) (
          if sameNumber == [ ] then true
          else fail "users" "${concatStringsSep " and " sameNumber} have the same uid")));

  rootfs = import ./rootfs.nix {
    inherit pkgs fail packages files directories passwd group cacert;
    name = guest;
    configuration = config;
  };
in
assert valid; rootfs
