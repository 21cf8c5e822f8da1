# Packages that can be evaluated, and that nobody builds.
arguments:

let
  lib = import ./lib.nix;
  make =
    attributes:
    let
      system = "x86_64-linux";
      own = builtins.removeAttrs attributes [
        "passthru"
        "meta"
      ];
      plain = lib.filterAttrs (_: value: !(builtins.isFunction value)) own;
    in
    derivation (
      {
        inherit system;
        builder = "/bin/sh";
      }
      // plain
    )
    // (attributes.passthru or { })
    // {
      meta = attributes.meta or { };
      inherit attributes;
    };
  tool = name: make { inherit name; };
  tools = names: lib.listToAttrs (map (name: lib.nameValuePair name (tool name)) names);

  text =
    name: text:
    make {
      inherit name text;
    };

  fixed =
    f:
    let
      final = f final;
    in
    final;

  pkgs =
    tools [
      "bash"
      "cargo"
      "clippy"
      "coreutils"
      "e2fsprogs"
      "erofs-utils"
      "imagemagick"
      "installShellFiles"
      "makeWrapper"
      "mypy"
      "nixfmt-rfc-style"
      "qemu"
      "qemu_test"
      "ruff"
      "rustfmt"
      "tesseract"
      "ty"
    ]
    // {
      inherit lib;
      path = ./.;
      stdenv = {
        hostPlatform = {
          system = arguments.system or "x86_64-linux";
        };
        mkDerivation = argument: make (if builtins.isFunction argument then fixed argument else argument);
      };
      rustc = tool "rustc" // {
        version = arguments.rust or "1.95.0";
      };
      runtimeShell = "/bin/sh";
      writeText = text;
      writeScript = text;
      writeShellScript = text;
      runCommand =
        name: attributes: buildCommand:
        make (attributes // { inherit name buildCommand; });
      closureInfo =
        { rootPaths }:
        make {
          name = "closure-info";
          inherit rootPaths;
        };
      mkShell = attributes: make (attributes // { name = "nix-shell"; });
      callPackage =
        file: overrides:
        let
          f = import file;
        in
        f (
          builtins.intersectAttrs (builtins.functionArgs f) (pkgs // { inherit (pkgs) lib; }) // overrides
        );
      rustPlatform = {
        buildRustPackage =
          attributes: make (builtins.removeAttrs attributes [ "cargoLock" ] // { name = attributes.pname; });
        importCargoLock = _: tool "cargo-deps";
        cargoSetupHook = tool "cargo-setup-hook";
        maturinBuildHook = tool "maturin-build-hook";
      };
      python3 = tool "python3" // {
        withPackages =
          f:
          make {
            name = "python3-env";
            packages = f (tools [
              "ipython"
              "numpy"
              "ptpython"
            ]);
          };
        pkgs = {
          callPackage =
            file: overrides:
            pkgs.callPackage file (
              {
                buildPythonPackage = attributes: make (attributes // { name = attributes.pname; });
                pythonOlder = _: false;
              }
              // overrides
            );
        };
      };
      testers.runNixOSTest = import ./nixos-test.nix {
        inherit pkgs;
        isNew = arguments.isNew or false;
      };
    };
in
pkgs
