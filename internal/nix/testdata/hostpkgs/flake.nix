# A stand-in for nixpkgs made of programs of this host, which prepare.sh puts into bin/ and
# gnutar/: a static busybox, and tar with the libraries it needs. It has just what mkGuest and the
# templates ask for.
{
  outputs = { self }:
    let
      packagesFor = system:
        let
          host = ./bin;
          run = name: script: derivation {
            inherit name system;
            builder = "${host}/busybox";
            args = [ "sh" "-euc" script ];
            PATH = if name == "busybox" then "/none" else "${busybox}/bin";
          } // { pname = name; };
          busybox = run "busybox" ''
            b=${host}/busybox
            $b mkdir -p $out/bin
            $b cp $b $out/bin/busybox
            for a in $($b --list); do [ $a = busybox ] || $b ln -s busybox $out/bin/$a; done
          '';
          # program makes a package with one shell script.
          program = name: script: derivation {
            inherit name system script;
            builder = "${busybox}/bin/sh";
            args = [ "-euc" "mkdir -p $out/bin; { echo '#!${busybox}/bin/sh'; echo \"$script\"; } >$out/bin/${name}; chmod 755 $out/bin/${name}" ];
            PATH = "${busybox}/bin";
          };
          # An interpreter that runs shell scripts: enough to see that it is started as it should.
          python3 = program "python3" "exec ${busybox}/bin/sh \"$@\"" // {
            withPackages = f: program "python3" "export PYTHON_PACKAGES='${toString (f { flask = "flask"; })}'; exec ${busybox}/bin/sh \"$@\"";
          };
        in
        {
          inherit busybox python3;
          stdenv = { hostPlatform = { inherit system; }; buildPlatform = { inherit system; }; };
          gnutar = run "gnutar" ''
            mkdir -p $out/bin $out/lib
            cp ${./gnutar}/* $out/lib/
            { echo '#!${busybox}/bin/sh'; cat ${./gnutar}/start; } | sed "s|@lib@|$out/lib|g" >$out/bin/tar
            chmod 755 $out/bin/tar
          '';
          # Two outputs, as many packages of nixpkgs have: programs are in bin.
          split =
            let d = derivation {
              name = "split"; inherit system; outputs = [ "out" "bin" ]; PATH = "${busybox}/bin";
              builder = "${busybox}/bin/sh";
              args = [ "-euc" "mkdir -p $out/lib $bin/bin; echo lib >$out/lib/x; echo \"#!/bin/sh\" >$bin/bin/split; chmod 755 $bin/bin/split" ];
            }; in d;
          nodejs = program "node" "exec ${busybox}/bin/sh \"$@\"";
          cacert = run "cacert" "mkdir -p $out/etc/ssl/certs; echo certificates >$out/etc/ssl/certs/ca-bundle.crt";
          # What the template asks of PostgreSQL, without a database.
          postgresql = run "postgresql" ''
            mkdir -p $out/bin
            program() { { echo '#!${busybox}/bin/sh'; cat; } >$out/bin/$1; chmod 755 $out/bin/$1; }
            echo 'echo 17 >"$PGDATA/PG_VERSION"' | program initdb
            echo 'trap "exit 0" INT; touch /tmp/ready; while :; do sleep 1; done' | program postgres
            echo 'test -e /tmp/ready' | program pg_isready
          '';
        };
    in
    {
      legacyPackages = {
        x86_64-linux = packagesFor "x86_64-linux";
        aarch64-linux = packagesFor "aarch64-linux";
      };
    };
}
