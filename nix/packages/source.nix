# The project's sources as its packages need them, with what Cargo.toml says of all of them.
{ lib, rustc }:

let
  root = ../..;
  workspace = (lib.importTOML (root + "/Cargo.toml")).workspace.package;
in
{
  inherit (workspace) version;

  src = lib.cleanSourceWith {
    name = "snowboot-source";
    src = root;
    # What is built, and what no build reads, would make every change another package.
    filter =
      path: _:
      let
        relative = lib.removePrefix "${toString root}/" (toString path);
        top = lib.head (lib.splitString "/" relative);
      in
      lib.elem top [
        "Cargo.lock"
        "Cargo.toml"
        "benches"
        "crates"
        "tests"
      ]
      && baseNameOf path != "__pycache__";
  };

  cargoLock.lockFile = root + "/Cargo.lock";

  # Cargo would say so, too, after minutes.
  checkCompiler = lib.throwIf (lib.versionOlder rustc.version workspace.rust-version) ''
    snowboot: it needs Rust ${workspace.rust-version}, and this package set has ${rustc.version}; take the package from Snowboot's own
    flake (leave out `inputs.snowboot.inputs.nixpkgs.follows`), or from a newer nixpkgs'';
}
