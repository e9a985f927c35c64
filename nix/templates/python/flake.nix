{
  description = "A Python web service on port 8080";

  inputs = {
    mvm.url = "github:mvmctl/mvmctl?dir=nix";
    nixpkgs.follows = "mvm/nixpkgs";
  };

  outputs = { self, nixpkgs, mvm }: {
    packages = mvm.lib.forSystems (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        default = mvm.lib.mkGuest {
          inherit pkgs;
          name = "python";
          include = [
            (mvm.lib.mkPythonService {
              inherit pkgs;
              name = "app";
              src = ./app;
              entrypoint = "main.py";
              # pythonPackages = ps: [ ps.flask ];
              port = 8080;
              healthPath = "/healthz";
              env.PORT = "8080";
            })
          ];
        };
      });
  };
}
