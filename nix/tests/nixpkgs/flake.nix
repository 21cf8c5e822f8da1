{
  description = "As much of nixpkgs as Snowboot's Nix code touches, for tests without a network";
  outputs = _: {
    lib = import ./lib.nix;
    legacyPackages.x86_64-linux = import ./packages.nix { };
  };
}
