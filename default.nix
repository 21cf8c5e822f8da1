# Snowboot without flakes: `import ./. { inherit pkgs; }` gives the packages, `lib.runTest`, and the NixOS modules.
{
  pkgs ? import <nixpkgs> { },
  # Another package of Snowboot, such as one that is already built.
  program ? pkgs.callPackage ./nix/packages/snowboot.nix { },
}:

{
  snowboot = program;
  snowboot-python = program.python.package;
  lib = import ./nix/lib.nix { inherit pkgs program; };
  overlay = import ./nix/overlay.nix;
  nixosModules = import ./nix/modules { inherit program; };
}
