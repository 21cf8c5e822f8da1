{
  description = "A NixOS test of a single machine";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    snowboot.url = "github:snowboot/snowboot";
  };

  outputs =
    { nixpkgs, snowboot, ... }:
    let
      system = "x86_64-linux";
      inherit (snowboot.lib.forPkgs nixpkgs.legacyPackages.${system}) runTest;
    in
    {
      # `nix flake check` runs it; `nix run .#checks.${system}.default.driverInteractive` lets you try it out.
      checks.${system}.default = runTest ./test.nix;
    };
}
