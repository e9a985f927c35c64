# Fragments of a guest for usual kinds of programs. Each gives what mkGuest's argument include
# takes: the packages, the service, its account and its health check.
let
  inherit (builtins) concatStringsSep hasAttr isList;

  helper = name: known: args:
    let
      label = if builtins.isString (args.name or null) then args.name else "?";
      fail = where: message: throw "${name}: ${label}: ${where}: ${message}";
      check = import ./check.nix { inherit fail; };
      need = n: if hasAttr n args then args.${n} else fail n "this argument is required";
      checked = check.only "arguments" known (if builtins.isAttrs args then args else fail "arguments" "it takes one set");
    in
    builtins.seq checked { inherit fail check need args; };

  # fragment is what all kinds have in common.
  fragment = h: { packages, command, env, user, port, probe }:
    let
      inherit (h) args check;
      name = check.name "name" (h.need "name");
      tools = (h.need "pkgs").busybox;
      http = if args ? healthPath && args.healthPath != null then check.path "healthPath" args.healthPath else probe;
      healthCommand =
        if http != null
        then [ "${tools}/bin/wget" "-q" "-O" "/dev/null" "http://127.0.0.1:${toString port}${http}" ]
        # Somebody listens: state 0A, on any address, in the guest's own tables.
        else [ "${tools}/bin/grep" "-qsE" "^ *[0-9]+: [0-9A-F]+:${hex port} [0-9A-F:]+ 0A " "/proc/net/tcp" "/proc/net/tcp6" ];
    in
    {
      inherit packages;
      services.${name} = {
        inherit command user;
        env = env // check.env "env" (args.env or { });
      };
      users = if user == "root" then { } else { ${user} = { home = "/var/lib/${user}"; }; };
    } // (if port == null then { } else {
      ports = [ port ];
      healthChecks.${name} = {
        command = healthCommand;
        service = name;
        interval = "10s";
        timeout = "5s";
        grace = "30s";
      };
    });

  hex = port:
    let
      digit = n: builtins.substring n 1 "0123456789ABCDEF";
      quarter = d: digit (port / d - (port / d / 16) * 16);
    in
    concatStringsSep "" (map quarter [ 4096 256 16 1 ]);

  account = h: h.check.account "user" (h.args.user or (h.need "name"));
  portOf = h: default:
    let p = h.args.port or default; in
    if p == null then null else h.check.int "port" 1 65535 p;
  source = h:
    let s = h.need "src"; in
    if builtins.isPath s || h.check.isDerivation s || builtins.isString s then "${s}"
    else h.fail "src" "expected a path or a derivation";
  # The program: a file below the source, with its arguments.
  entry = h: dir:
    let
      e = h.args.entrypoint or (h.fail "entrypoint" "this argument is required");
      words = if isList e then h.check.words "entrypoint" e else [ (h.check.string "entrypoint" e) ];
    in
    if words == [ ] then h.fail "entrypoint" "the list is empty"
    else [ "${dir}/${builtins.head words}" ] ++ builtins.tail words;
in
{
  # A Python program: python [ENTRYPOINT ARGUMENT...] below src.
  mkPythonService = args:
    let
      h = helper "mkPythonService" [ "pkgs" "name" "src" "entrypoint" "python" "pythonPackages" "env" "user" "port" "healthPath" ] args;
      python = args.python or h.args.pkgs.python3;
      interpreter = if args ? pythonPackages then python.withPackages args.pythonPackages else python;
    in
    fragment h {
      packages = [ interpreter ];
      command = [ "${interpreter}/bin/python3" ] ++ entry h (source h);
      # Output at once: nobody reads a log that sits in a buffer.
      env = { PYTHONUNBUFFERED = "1"; PYTHONDONTWRITEBYTECODE = "1"; };
      user = account h;
      port = portOf h null;
      probe = null;
    };

  # A Node.js program. With npmDepsHash, nixpkgs' buildNpmPackage installs what its lock file
  # names and runs its build script first.
  mkNodeService = args:
    let
      h = helper "mkNodeService" [ "pkgs" "name" "src" "entrypoint" "nodejs" "npmDepsHash" "npmBuild" "env" "user" "port" "healthPath" ] args;
      nodejs = args.nodejs or h.args.pkgs.nodejs;
      app =
        if args ? npmDepsHash then h.args.pkgs.buildNpmPackage {
          pname = h.check.name "name" (h.need "name");
          version = "0";
          src = h.need "src";
          inherit nodejs;
          npmDepsHash = h.check.string "npmDepsHash" args.npmDepsHash;
          dontNpmBuild = !(h.check.bool "npmBuild" (args.npmBuild or true));
          installPhase = "runHook preInstall; npm prune --omit=dev --no-save; mkdir $out; cp -r . $out/; runHook postInstall";
        } else source h;
    in
    fragment h {
      packages = [ nodejs ];
      command = [ "${nodejs}/bin/node" ] ++ entry h "${app}";
      env = { NODE_ENV = "production"; };
      user = account h;
      port = portOf h null;
      probe = null;
    };

  # A folder of files over HTTP, by busybox.
  mkStaticSite = args:
    let
      h = helper "mkStaticSite" [ "pkgs" "name" "src" "env" "user" "port" "healthPath" ] args;
      port = portOf h 8080;
    in
    fragment h {
      packages = [ ];
      command = [ "${(h.need "pkgs").busybox}/bin/httpd" "-f" "-p" (toString port) "-h" (source h) ];
      env = { };
      user = account h;
      inherit port;
      probe = "/";
    };
}
