{
  description = "A shell and nothing else";

  inputs = {
    mvm.url = "github:mvmctl/mvmctl?dir=nix";
    nixpkgs.follows = "mvm/nixpkgs";
  };

  outputs = { self, nixpkgs, mvm }: {
    packages = mvm.lib.forSystems (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        default = mvm.lib.mkGuest {
          inherit pkgs;
          name = "minimal";
          # Anything of nixpkgs: packages = [ pkgs.curl pkgs.jq ];
          packages = [ ];
        };
      });
  };
}
