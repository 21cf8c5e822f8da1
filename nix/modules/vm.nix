# NixOS module: `system.build.vm` with Snowboot in the place of QEMU. The NixOS test driver, its interactive mode and all scripts
# that call the start script stay: it takes the arguments that they append.
{ program }:
{
  config,
  lib,
  ...
}:

let
  cfg = config.snowboot;
  hostPkgs = config.virtualisation.host.pkgs;
  name = config.system.name;
  # A machine that is in no test is alone.
  number = cfg.machine.number or 1;
  report = import ../report.nix { inherit lib; };

  description = hostPkgs.writeText "${name}.json" (builtins.toJSON cfg.machine);
  tools = lib.makeBinPath [
    hostPkgs.e2fsprogs
    hostPkgs.erofs-utils
  ];
  # `exec`, so that signals for the script reach the machine.
  script = hostPkgs.writeScript "run-snowboot-vm" ''
    #! ${hostPkgs.runtimeShell}
    export PATH=${tools}''${PATH:+:}$PATH
    exec ${cfg.package}/bin/snowboot vm --config ${description} --name ${lib.escapeShellArg name} --number ${toString number} "$@"
  '';
in
{
  key = "snowboot/vm";
  imports = [ (import ./node.nix { inherit program; }) ];

  system.build.vm = lib.mkForce (
    report.throwOn "the machine `${name}`" (report.lines name cfg.problems) (
      hostPkgs.runCommand "snowboot-vm-${name}"
        {
          preferLocalBuild = true;
          meta.mainProgram = "run-${name}-vm";
        }
        ''
          mkdir -p $out/bin
          ln -s ${config.system.build.toplevel} $out/system
          ln -s ${script} $out/bin/run-${name}-vm
        ''
    )
  );
}
