# The NixOS test framework as far as a test's evaluation goes, in the shape of NixOS 24.05, or with `isNew` of autumn 2026.
{
  pkgs,
  isNew ? false,
}:

let
  inherit (pkgs) lib;
  inherit (lib) mkOption types;
  option = default: type: mkOption { inherit default type; };

  node = import ./node.nix { inherit pkgs isNew; };

  framework =
    modules:
    { config, ... }:
    let
      names = builtins.attrNames config.nodes;
      numbers = lib.listToAttrs (
        map (number: lib.nameValuePair (lib.elemAt names (number - 1)) number) (
          lib.range 1 (lib.length names)
        )
      );
    in
    {
      options = {
        name = mkOption { type = types.str; };
        meta = option { } types.attrs;
        passthru = option { } types.attrs;
        hostPkgs = option pkgs types.raw;
        qemu.package = option pkgs.qemu_test types.package;
        globalTimeout = option 3600 types.int;
        enableOCR = option false types.bool;
        extraPythonPackages = option (_: [ ]) (types.functionTo types.raw);
        extraDriverArgs = option [ ] (types.listOf types.str);
        skipLint = option false types.bool;
        skipTypeCheck = option false types.bool;
        testScript = mkOption { type = types.raw; };
        testScriptString = option (
          if builtins.isFunction config.testScript then
            config.testScript { inherit (config) nodes; }
          else
            config.testScript
        ) types.str;
        defaults = option { } types.deferredModule;
        extraBaseModules = option { } types.deferredModule;
        node.pkgs = option null types.raw;
        nodes = mkOption {
          default = { };
          type = types.attrsOf (
            types.evaluated (
              name: own:
              (lib.evalModules {
                specialArgs = {
                  inherit pkgs;
                  inherit (config) nodes;
                };
                modules = [
                  node
                  config.extraBaseModules
                  config.defaults
                  (config.nodeDefaults or { })
                  (config.extraBaseNodeModules or { })
                  { networking.hostName = lib.mkDefault name; }
                  {
                    virtualisation.test = {
                      nodeName = name;
                      nodeNumber = numbers.${name};
                    };
                  }
                  { virtualisation.qemu.package = config.qemu.package; }
                ]
                ++ own;
              }).config
            )
          );
        };
        driver = mkOption { type = types.package; };
        rawTestDerivation = mkOption { type = types.package; };
        test = mkOption { type = types.package; };
      }
      // lib.optionalAttrs isNew {
        containers = option { } types.attrs;
        driverConfiguration = option { } types.raw;
        enableDebugHook = option false types.bool;
        extraBaseNodeModules = option { } types.deferredModule;
        logLevel = option "info" types.str;
        nodeDefaults = option { } types.deferredModule;
        rawTestDerivationArg = mkOption { type = types.raw; };
        requiredFeatures = option { } types.attrs;
        sshBackdoor.enable = option config.enableDebugHook types.bool;
      }
      // {
        interactive = mkOption {
          default = { };
          type = types.evaluated (_: own: evaluate (modules ++ own));
        };
      };

      config = {
        defaults = { };
        driver = pkgs.runCommand "nixos-test-driver-${config.name}" { } "the driver of NixOS";
        rawTestDerivation = pkgs.stdenv.mkDerivation (
          if isNew then config.rawTestDerivationArg { } else { name = "vm-test-run-${config.name}"; }
        );
        # What is beside the derivation can be looked at without making it.
        test = config.passthru // {
          type = "derivation";
          inherit (config.rawTestDerivation)
            name
            system
            drvPath
            outPath
            outputName
            attributes
            requiredSystemFeatures
            ;
        };
        interactive.qemu.package = pkgs.qemu;
        interactive.extraDriverArgs = [ "--interactive" ];
        passthru = {
          inherit (config) driver nodes;
          inherit config;
          driverInteractive = config.interactive.driver;
        }
        // lib.optionalAttrs isNew {
          extend = extra: (evaluate (modules ++ extra.modules)).test;
          extendNixOS = extra: (evaluate (modules ++ [ { extraBaseModules = extra.module; } ])).test;
          overrideTestDerivation =
            change:
            (evaluate (
              modules
              ++ [
                {
                  rawTestDerivationArg = lib.mkForce (
                    final:
                    let
                      own = config.rawTestDerivationArg final;
                    in
                    own // change own
                  );
                }
              ]
            )).test;
        };
      }
      // lib.optionalAttrs isNew {
        rawTestDerivationArg = _: { name = "vm-test-run-${config.name}"; };
        nodeDefaults.virtualisation.qemu.enableSharedMemory = lib.mkDefault true;
      };
    };

  evaluate =
    modules:
    (lib.evalModules {
      specialArgs = {
        hostPkgs = pkgs;
        inherit pkgs;
      };
      modules = [ (framework modules) ] ++ modules;
    }).config;
in
module: (evaluate [ module ]).test
