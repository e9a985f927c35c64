{
  description = "Root file systems for microVMs: mkGuest, service helpers and templates";

  # Only a default for the templates, pinned by the lock. The library takes pkgs as an argument,
  # so nothing here fetches nixpkgs unless a guest asks for it.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs = { self, nixpkgs }: {
    lib = import ./lib;

    templates = rec {
      default = minimal;
      minimal = { path = ./templates/minimal; description = "A shell and nothing else"; };
      http = { path = ./templates/http; description = "A static web site on port 8080"; };
      postgres = { path = ./templates/postgres; description = "PostgreSQL with its data on a volume"; };
      worker = { path = ./templates/worker; description = "A background program with a health check"; };
      python = { path = ./templates/python; description = "A Python web service on port 8080"; };
    };
  };
}
