# Module of the NixOS test framework: the whole test on Snowboot, with its own driver. All of the framework's options and outputs
# stay; only how the driver and the test's derivation are made is replaced.
{ program, python }:
{
  config,
  options,
  lib,
  hostPkgs,
  ...
}:

let
  inherit (lib) mkOption types;
  report = import ./report.nix { inherit lib; };
  cfg = config.snowboot;

  nodes = lib.attrValues config.nodes;
  names = map (node: node.system.name) nodes;

  machines = lib.listToAttrs (
    map (node: lib.nameValuePair node.system.name node.snowboot.machine) nodes
  );
  script = hostPkgs.writeText "test-script" config.testScriptString;
  manifest = hostPkgs.writeText "manifest.json" (
    builtins.toJSON {
      inherit (config) name;
      script = "${script}";
      global-timeout = config.globalTimeout;
      inherit machines;
    }
  );

  # For hands, and whatever else calls the driver by the command line that it has in NixOS.
  driverConfiguration = hostPkgs.writeText "driver.json" (
    builtins.toJSON {
      vms = lib.mapAttrs (name: machine: {
        inherit name;
        start_script = "${hostPkgs.writeText "${name}.json" (builtins.toJSON machine)}";
      }) machines;
      vlans = lib.unique (lib.concatMap (machine: machine.vlans) (lib.attrValues machines));
      global_timeout = config.globalTimeout;
      test_script = "${script}";
      enable_ssh_backdoor = false;
    }
  );

  wrong =
    option: why: instead:
    "${option}: ${why}; ${instead}";
  ignorable =
    is: option: why: instead:
    lib.optional (is && !(lib.elem option cfg.ignore)) (
      wrong option why "${instead}, or go without: snowboot.ignore = [ \"${option}\" ];"
    );
  problems =
    lib.optional (nodes == [ ]) (wrong "nodes" "there is no machine in this test" "give it one")
    ++ lib.optional (config.containers or { } != { }) (
      wrong "containers" "Snowboot has virtual machines only"
        "make them nodes, or run this test with the NixOS driver"
    )
    ++ lib.optional (names != lib.unique names) (
      wrong "networking.hostName"
        "two nodes have the same name (${lib.concatStringsSep ", " names}), which is also the machine's in the script"
        "give each node its own"
    )
    ++ ignorable config.enableOCR "enableOCR" "machines have no display" "leave it false"
    ++
      ignorable (config.sshBackdoor.enable or false) "sshBackdoor.enable" "machines have no vsock device"
        "leave it false; `driverInteractive` has a shell on every machine"
    ++ lib.concatMap (
      name:
      report.lines name (
        lib.filter (it: !(lib.elem it.option cfg.ignore)) config.nodes.${name}.snowboot.problems
      )
    ) (lib.attrNames config.nodes);
  checked = report.throwOn "the test `${config.name}`" problems;

  interpreter = python.interpreter config.extraPythonPackages;
  skip =
    lib.optional config.skipTypeCheck "--skip-type-check" ++ lib.optional config.skipLint "--skip-lint";
  checkers =
    lib.optional (!config.skipTypeCheck) (hostPkgs.ty or hostPkgs.mypy)
    ++ lib.optional (!config.skipLint) hostPkgs.ruff;
  tools = [
    hostPkgs.coreutils
    hostPkgs.e2fsprogs
    hostPkgs.erofs-utils
  ]
  ++ lib.optionals config.enableOCR [
    hostPkgs.tesseract
    hostPkgs.imagemagick
  ];
  logLevel = lib.optionals (config ? logLevel) [
    "--log-level"
    config.logLevel
  ];
  wrap =
    name: arguments:
    "makeWrapper ${cfg.package}/bin/snowboot $out/bin/${name} --prefix PATH : ${lib.makeBinPath tools} --set SNOWBOOT_PYTHON ${interpreter} ${
      lib.escapeShellArgs (
        lib.concatMap (argument: [
          "--add-flags"
          (lib.escapeShellArg argument)
        ]) (arguments ++ logLevel ++ config.extraDriverArgs)
      )
    }";

  driver =
    hostPkgs.runCommand "nixos-test-driver-${config.name}"
      {
        nativeBuildInputs = [ hostPkgs.makeWrapper ] ++ checkers;
        preferLocalBuild = true;
        inherit (config) passthru;
        meta = config.meta // {
          mainProgram = "nixos-test-driver";
        };
      }
      ''
        mkdir -p $out/bin
        ln -s ${manifest} $out/manifest.json
        ln -s ${script} $out/test-script
        SNOWBOOT_PYTHON=${interpreter} ${cfg.package}/bin/snowboot check ${
          lib.concatStringsSep " " (skip ++ [ "${manifest}" ])
        }
        ${wrap "nixos-test-driver" [
          "nixos-test-driver"
          "--config"
          "${driverConfiguration}"
        ]}
        ${
          # The script was checked just now.
          wrap "snowboot-test" [
            "test"
            "--skip-type-check"
            "--skip-lint"
            "${manifest}"
          ]
        }
      '';

  derivation = {
    name = "vm-test-run-${config.name}";
    requiredSystemFeatures = [ "kvm" ];
    buildCommand = ''
      mkdir -p $out
      ${config.driver}/bin/snowboot-test -o $out
    '';
    inherit (config) passthru meta;
  };
in
{
  key = "snowboot/test";

  options.snowboot = {
    package = mkOption {
      type = types.package;
      default = program;
      defaultText = lib.literalMD "that of the flake";
      description = "The package of Snowboot.";
    };
    ignore = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "virtualisation.qemu.options" ];
      description = "Options of the test and of all its nodes that Snowboot has nothing for, and that it is to leave out.";
    };
    problems = mkOption {
      type = types.raw;
      readOnly = true;
      internal = true;
      description = "What cannot be honoured and is not ignored, as lines.";
    };
    manifest = mkOption {
      type = types.package;
      readOnly = true;
      description = "The test's manifest, for `snowboot test` by hand.";
    };
  };

  config = {
    snowboot = {
      inherit problems;
      manifest = checked manifest;
    };
    extraBaseModules = {
      imports = [ (import ./modules/node.nix { program = cfg.package; }) ];
      snowboot.framework.qemu = config.qemu.package;
    };

    # Stronger than what the framework sets, and weaker than mkForce: who overrides a test goes last.
    driver = lib.mkOverride 90 (checked (lib.warnIf config.skipLint "Linting is disabled" driver));
    passthru.snowboot = {
      inherit (cfg) manifest;
    };
  }
  // (
    if options ? rawTestDerivationArg then
      { rawTestDerivationArg = lib.mkOverride 90 (_: derivation); }
    else
      { rawTestDerivation = lib.mkOverride 90 (hostPkgs.stdenv.mkDerivation derivation); }
  );
}
