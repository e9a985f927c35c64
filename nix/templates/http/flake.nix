{
  description = "A static web site on port 8080";

  inputs = {
    mvm.url = "github:mvmctl/mvmctl?dir=nix";
    nixpkgs.follows = "mvm/nixpkgs";
  };

  outputs = { self, nixpkgs, mvm }: {
    packages = mvm.lib.forSystems (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        default = mvm.lib.mkGuest {
          inherit pkgs;
          name = "http";
          include = [
            (mvm.lib.mkStaticSite {
              inherit pkgs;
              name = "site";
              src = ./site;
              port = 8080;
            })
          ];
        };
      });
  };
}
