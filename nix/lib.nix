# What a flake or an expression uses: tests on Snowboot for one package set.
#
# `pkgs` is what the tests' nodes and tools are made of, `program` Snowboot's package, of which `python` is the Python side.
{
  pkgs,
  program,
  python ? program.python,
}:

let
  inherit (pkgs) lib;
  testModule = import ./test.nix { inherit program python; };

  # The argument of `pkgs.testers.runNixOSTest`: a module, or the path of one.
  runTest =
    module:
    pkgs.testers.runNixOSTest {
      imports = [
        (lib.setDefaultModuleLocation "the argument of snowboot.lib.runTest" module)
        testModule
      ];
    };

  # The argument of `pkgs.nixosTest`: a test without `imports` and `options`, which may be a function of the package set.
  makeTest =
    test:
    let
      value = if builtins.isPath test || builtins.isString test then import test else test;
      all = pkgs // {
        inherit pkgs lib;
      };
      named = lib.functionArgs value;
      arguments = if named == { } then all else builtins.intersectAttrs named all;
      body = if lib.isFunction value then value arguments else value;
    in
    runTest {
      # Nodes of such tests may have overlays and settings of nixpkgs of their own.
      node.pkgs = lib.mkOverride 90 null;
      defaults.nixpkgs.pkgs = lib.mkDefault pkgs;
      imports = [ { config = body; } ];
    };
in
{
  inherit runTest makeTest testModule;
}
