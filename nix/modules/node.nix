# NixOS module: what Snowboot makes of this node (snowboot.machine), and the few choices that there are.
{ program }:
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;
  cfg = config.snowboot;
  translated =
    import ../machine.nix
      {
        inherit lib;
        hostPkgs = config.virtualisation.host.pkgs;
        program = cfg.package;
      }
      {
        inherit config pkgs;
        inherit (cfg) framework;
        snowboot = {
          inherit (cfg) unpackKernel prepareStore storeDevice;
          machine = cfg.extraMachineConfig;
        };
      };
in
{
  key = "snowboot/node";

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
      description = ''
        Options of this node that Snowboot has nothing for, and that it is to leave out instead of refusing the test.
      '';
    };
    unpackKernel = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether the kernel is unpacked once, as a derivation of its own, instead of in every run that cannot keep it.
      '';
    };
    storeDevice = mkOption {
      type = types.enum [
        "disk"
        "pmem"
      ];
      default = "disk";
      description = ''
        With `virtualisation.useNixStoreImage`: how the guest has the image. Persistent memory needs the modules `virtio_pmem` and
        `nd_pmem` in the initrd, and leaves the disks behind the store one letter earlier.
      '';
    };
    prepareStore = mkOption {
      type = types.bool;
      default = false;
      description = ''
        With `virtualisation.useNixStoreImage`: whether the image is a derivation, kept in the Nix store, instead of made by every
        run.
      '';
    };
    extraMachineConfig = mkOption {
      type = types.attrsOf types.raw;
      default = { };
      example = {
        profile = "fast";
      };
      description = "Keys of the machine's description (docs/manifest.md) that are added, or put in the place of others.";
    };
    framework = mkOption {
      type = types.attrsOf types.raw;
      default = { };
      internal = true;
      description = "What the test framework has set for every node.";
    };
    machine = mkOption {
      type = types.raw;
      readOnly = true;
      description = "The machine's description, as a manifest has it.";
    };
    problems = mkOption {
      type = types.raw;
      readOnly = true;
      internal = true;
      description = "What cannot be honoured and is not ignored.";
    };
  };

  config = {
    snowboot = {
      inherit (translated) machine;
      problems = lib.filter (problem: !(lib.elem problem.option cfg.ignore)) translated.problems;
    };
    # Up to NixOS 25.11 the image of a writable store was ext4, and is EROFS here.
    boot.initrd.kernelModules = lib.mkIf config.virtualisation.useNixStoreImage (
      [ "erofs" ]
      ++ lib.optionals (cfg.storeDevice == "pmem") [
        "virtio_pmem"
        "nd_pmem"
      ]
    );
  };
}
