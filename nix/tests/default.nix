# What `cargo xtask test nix` evaluates: manifests of the cases, and what refused tests are told.
let
  pkgs = import ./nixpkgs/packages.nix { };
  inherit (pkgs) lib;
  snowboot = import ../.. { inherit pkgs; };
  run =
    name: test:
    snowboot.lib.runTest {
      imports = [ test ];
      inherit name;
      testScript = "start_all()";
    };
  old = import ../.. { pkgs = import ./nixpkgs/packages.nix { rust = "1.80.0"; }; };
  arm = import ../.. { pkgs = import ./nixpkgs/packages.nix { system = "aarch64-linux"; }; };

  # Names of a test's outputs that users reach for.
  outputs = test: {
    inherit (test) name system;
    features = test.requiredSystemFeatures;
    command = test.attributes.buildCommand;
    driver = test.driver.name;
    interactive = test.driverInteractive.attributes.buildCommand;
    nodes = lib.attrNames test.nodes;
    config = test.config.name;
  };
in
{
  manifests = lib.mapAttrs (
    name: test:
    builtins.fromJSON (
      builtins.unsafeDiscardStringContext (run name test).config.snowboot.manifest.text
    )
  ) (import ./cases.nix);

  refused = lib.mapAttrs (name: test: (run name test).config.snowboot.problems) (
    import ./refused.nix
  );
  # Each of those ends the evaluation of whatever is built of the test.
  isRefused = lib.mapAttrs (
    name: test:
    let
      fails = value: !(builtins.tryEval "${value}").success;
      refused = run name test;
    in
    fails refused && fails refused.driver && fails refused.config.snowboot.manifest
  ) (import ./refused.nix);
  # What a user reads.
  message = "${run "efi" (import ./refused.nix).efi}";
  oldCompiler = "${old.snowboot}";
  otherPlatform =
    (arm.lib.runTest {
      name = "arm";
      nodes.machine = { };
      testScript = "";
    }).config.snowboot.problems;

  outputs = {
    usual = outputs (run "usual" (import ./cases.nix).two-nodes);
    options = outputs (
      run "options" {
        nodes.machine = { };
        skipLint = true;
        skipTypeCheck = true;
        enableOCR = true;
        snowboot.ignore = [ "enableOCR" ];
        extraDriverArgs = [ "--junit-xml=junit file.xml" ];
        extraPythonPackages = packages: [ packages.numpy ];
        interactive.nodes.extra = { };
      }
    );
    overlay = outputs (
      let
        final = pkgs // import ../overlay.nix final pkgs;
      in
      final.testers.runSnowbootTest {
        name = "overlay";
        nodes.machine = { };
        testScript = "";
      }
    );
    legacy = outputs (
      snowboot.lib.makeTest (
        { pkgs, ... }:
        {
          name = "legacy";
          nodes.machine = { };
          testScript = { nodes, ... }: "assert '${nodes.machine.system.name}'";
        }
      )
    );
  };

  # Only QEMU goes: the start script of a node.
  vm =
    let
      test = pkgs.testers.runNixOSTest {
        name = "vm";
        nodes.machine = { };
        defaults.imports = [ snowboot.nixosModules.vm ];
        testScript = "";
      };
      inherit (test.nodes.machine.system.build) vm;
    in
    {
      inherit (vm.meta) mainProgram;
      inherit (vm.attributes) buildCommand;
      machine = test.nodes.machine.snowboot.machine;
      driver = test.driver.attributes.buildCommand;
    };

  # A nixpkgs of autumn 2026, with what is new in its test framework.
  newer =
    let
      new = import ../.. { pkgs = import ./nixpkgs/packages.nix { isNew = true; }; };
      test = new.lib.runTest {
        name = "newer";
        nodes.machine.virtualisation = {
          credentials.token.text = "a b";
          emptyDiskImages = [
            {
              size = 64;
              driveConfig.deviceExtraOpts.serial = "data";
            }
          ];
          sharedDirectories.data = {
            source = "/srv/data";
            target = "/data";
            writable = false;
          };
        };
        defaults.boot.kernelParams = [ "quiet" ];
        extraBaseNodeModules.boot.kernelParams = [ "debug" ];
        logLevel = "warning";
        testScript = "start_all()";
      };
      manifest =
        of: builtins.fromJSON (builtins.unsafeDiscardStringContext of.config.snowboot.manifest.text);
    in
    {
      manifest = manifest test;
      outputs = outputs test;
      vm =
        (new.lib.runTest {
          name = "start-scripts";
          nodes.machine.imports = [ new.nixosModules.vm ];
          testScript = "";
        }).nodes.machine.system.build.vm.attributes.buildCommand;
      extended = (manifest (test.extend { modules = [ { globalTimeout = 60; } ]; })).global-timeout;
      onOtherNixOS =
        (manifest (test.extendNixOS { module.virtualisation.memorySize = 2048; })).machines.machine.memory;
      overridden =
        (test.overrideTestDerivation (own: {
          requiredSystemFeatures = own.requiredSystemFeatures ++ [ "big" ];
        })).requiredSystemFeatures;
      refused =
        (new.lib.runTest {
          name = "newer-refused";
          nodes.machine.virtualisation.qemu.options = [
            "-device vhost-user-fs-pci,chardev=x,tag=unknown"
            "-chardev socket,id=x,path=/x"
          ];
          containers.box = { };
          enableDebugHook = true;
          testScript = "";
        }).config.snowboot.problems;
    };

  templates = lib.mapAttrs (
    name: _: outputs (snowboot.lib.runTest (../templates + "/${name}/test.nix"))
  ) (builtins.readDir ../templates);
}
