# The Python package: the driver for scripts, with its pytest plugin.
{
  lib,
  buildPythonPackage,
  pythonOlder,
  rustPlatform,
  rustc,
  cargo,
  callPackage,
}:

let
  source = callPackage ./source.nix { };
in
source.checkCompiler buildPythonPackage {
  pname = "snowboot";
  inherit (source) version src;
  pyproject = true;
  disabled = pythonOlder "3.11";

  cargoDeps = rustPlatform.importCargoLock source.cargoLock;
  # The workspace's lock file is at its root, the package below it.
  buildAndTestSubdir = "crates/python";
  nativeBuildInputs = [
    rustPlatform.cargoSetupHook
    rustPlatform.maturinBuildHook
    cargo
    rustc
  ];

  # The tests of the package need features that are not in it: `cargo xtask test package`.
  doCheck = false;
  pythonImportsCheck = [
    "snowboot"
    "test_driver"
  ];

  meta = {
    description = "Test driver for virtual machines: starts them, gives them commands, waits for them";
    license = [
      lib.licenses.asl20
      lib.licenses.mit
    ];
    platforms = [ "x86_64-linux" ];
  };
}
