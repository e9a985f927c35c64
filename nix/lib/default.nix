# The library of the flake, importable without it: import ./lib. It needs no nixpkgs; what a guest
# is made of comes as the argument pkgs.
rec {
  mkGuest = import ./mk-guest.nix;
  inherit (import ./services.nix) mkPythonService mkNodeService mkStaticSite;

  # What microVMs run.
  systems = [ "x86_64-linux" "aarch64-linux" ];

  # forSystems f is { x86_64-linux = f "x86_64-linux"; … }.
  forSystems = f: builtins.listToAttrs (map (system: { name = system; value = f system; }) systems);

  # For security.access: nothing can be run, copied, forwarded or opened from the host.
  sealed = { console = false; exec = false; copy = false; forward = false; };
}
