{
  description = "A background program with a health check";

  inputs = {
    mvm.url = "github:mvmctl/mvmctl?dir=nix";
    nixpkgs.follows = "mvm/nixpkgs";
  };

  outputs = { self, nixpkgs, mvm }: {
    packages = mvm.lib.forSystems (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        default = mvm.lib.mkGuest {
          inherit pkgs;
          name = "worker";
          users.worker = { home = "/var/lib/worker"; };
          services.worker = {
            user = "worker";
            command = [ "/bin/sh" "${./worker.sh}" ];
            env.INTERVAL = "10";
            workingDir = "/var/lib/worker";
            restart = "on-failure";
          };
          # The worker touches this file after each round: an old one means that it hangs.
          healthChecks.worker = {
            command = ''test -n "$(find /var/lib/worker/last-round -mmin -1)"'';
            service = "worker";
            interval = "15s";
            grace = "30s";
          };
        };
      });
  };
}
