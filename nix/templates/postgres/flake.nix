{
  description = "PostgreSQL with its data on a volume";

  inputs = {
    mvm.url = "github:mvmctl/mvmctl?dir=nix";
    nixpkgs.follows = "mvm/nixpkgs";
  };

  outputs = { self, nixpkgs, mvm }: {
    packages = mvm.lib.forSystems (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        default = mvm.lib.mkGuest {
          inherit pkgs;
          name = "postgres";
          packages = [ pkgs.postgresql ];
          users.postgres = { home = "/var/lib/postgresql"; };
          services.postgres = {
            user = "postgres";
            # Also right after a restart: a cluster that is there stays as it is. Local connections
            # are trusted, all others need a password.
            preStart = ''
              mkdir -p "$PGDATA" && chmod 0700 "$PGDATA" || exit 1
              [ -s "$PGDATA/PG_VERSION" ] && exit 0
              initdb --username=postgres --auth-local=trust --auth-host=scram-sha-256
            '';
            command = [ "${pkgs.postgresql}/bin/postgres" "-c" "listen_addresses=127.0.0.1" "-k" "/tmp" ];
            env.PGDATA = "/var/lib/postgresql/data";
            # SIGINT: close the connections and stop cleanly.
            stopSignal = "SIGINT";
            stopTimeout = "30s";
          };
          healthChecks.postgres = {
            command = [ "${pkgs.postgresql}/bin/pg_isready" "-h" "/tmp" "-U" "postgres" ];
            service = "postgres";
            grace = "60s";
          };
          ports = [ 5432 ];
          # mvmctl up … -v pgdata:/var/lib/postgresql keeps the data.
          volumes = [ "/var/lib/postgresql" ];
        };
      });
  };
}
