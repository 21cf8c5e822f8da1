# A NixOS configuration as far as its virtual machine goes, in the shape of NixOS 24.05 (`virtualisation.*` of its module for
# QEMU, and what the test framework's network module adds), or with `isNew` of autumn 2026.
{
  pkgs,
  isNew ? false,
}:

{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  option = default: type: mkOption { inherit default type; };
  cfg = config.virtualisation;
  drv = name: pkgs.runCommand name { } "";

  flagsOf = number: vlan: [
    "-device virtio-net-pci,netdev=vlan${toString number},mac=52:54:00:12:01:01"
    "-netdev vde,id=vlan${toString number},sock=\"$QEMU_VDE_SOCKET_${toString vlan}\""
  ];
  vlans = cfg.vlans ++ lib.mapAttrsToList (_: it: it.vlan) cfg.interfaces;
  numbers = lib.range 1 (lib.length vlans);
in
{
  options = {
    networking.hostName = mkOption { type = types.str; };
    system.name = option config.networking.hostName types.str;
    system.build = option { } types.attrs;
    system.boot.loader.kernelFile = option "bzImage" types.str;
    boot.kernelParams = option [ ] (types.listOf types.str);
    boot.initrd.kernelModules = option [ ] (types.listOf types.str);
    boot.initrd.availableKernelModules = option [ ] (types.listOf types.str);
    fileSystems = option cfg.fileSystems types.raw;

    virtualisation = {
      additionalPaths = option [ ] (types.listOf types.path);
      bios = option null types.raw;
      cores = option 1 types.int;
      diskImage = option "./${config.system.name}.qcow2" types.raw;
      diskSize = option 1024 types.int;
      emptyDiskImages = option [ ] (types.listOf types.int);
      fileSystems = option { } types.attrs;
      forwardPorts = option [ ] (types.listOf types.raw);
      graphics = option true types.bool;
      host.pkgs = option pkgs types.raw;
      interfaces = option { } types.attrs;
      memorySize = option 1024 types.int;
      mountHostNixStore = option (!cfg.useNixStoreImage) types.bool;
      restrictNetwork = option false types.bool;
      sharedDirectories = option { } types.attrs;
      tpm.enable = option false types.bool;
      useBootLoader = option false types.bool;
      useDefaultFilesystems = option true types.bool;
      useEFIBoot = option false types.bool;
      useHostCerts = option false types.bool;
      useNixStoreImage = option false types.bool;
      vlans = option [ 1 ] (types.listOf types.int);
      writableStore = option cfg.mountHostNixStore types.bool;
      directBoot.enable = option (!cfg.useBootLoader) types.bool;
      directBoot.initrd = option "${drv "initrd"}/initrd" types.str;
      qemu = {
        consoles = option [ "ttyS0" ] (types.listOf types.str);
        drives = option [ ] (types.listOf types.raw);
        networkingOptions = option [ ] (types.listOf types.str);
        options = option [ ] (types.listOf types.str);
        package = option pkgs.qemu_test types.package;
      }
      // lib.optionalAttrs isNew {
        enableSharedMemory = option false types.bool;
        forceAccel = option true types.bool;
      };
    };
  };

  config = {
    system.build = {
      kernel = drv "linux";
      toplevel = pkgs.runCommand "nixos-system-${config.system.name}" {
        kernelParams = config.boot.kernelParams;
      } "";
      vm = drv "nixos-vm";
    };
    boot.kernelParams = [
      "console=ttyS0"
      "panic=1"
    ];

    virtualisation = {
      additionalPaths = [ config.system.build.toplevel ];
      sharedDirectories = lib.mkMerge [
        (lib.mkIf cfg.mountHostNixStore {
          nix-store = {
            source = "/nix/store";
            target = if isNew then "/nix/.ro-store" else "/nix/store";
          }
          // lib.optionalAttrs isNew { writable = false; };
        })
        {
          xchg = {
            source = "\"$TMPDIR\"/xchg";
            target = "/tmp/xchg";
          };
          shared = {
            source = "\"\${SHARED_DIR:-$TMPDIR/xchg}\"";
            target = "/tmp/shared";
          };
        }
      ];
      fileSystems = lib.mkMerge [
        {
          "/" = {
            device = "/dev/disk/by-label/nixos";
            fsType = "ext4";
          };
        }
        (lib.listToAttrs (
          lib.mapAttrsToList (
            tag: share:
            lib.nameValuePair
              (if tag == "nix-store" && cfg.writableStore then "/nix/.ro-store" else share.target)
              {
                device = tag;
                fsType = if isNew then "virtiofs" else "9p";
                options = if isNew then [ ] else [ "trans=virtio" ];
              }
          ) cfg.sharedDirectories
        ))
      ];
      qemu = {
        networkingOptions = [
          "-net nic,netdev=user.0,model=virtio"
          "-netdev user,id=user.0,\"$QEMU_NET_OPTS\""
        ];
        options = [
          "-device virtio-keyboard"
          "-usb"
          "-device usb-tablet,bus=usb-bus.0"
          "-kernel \${NIXPKGS_QEMU_KERNEL_machine:-${config.system.build.toplevel}/kernel}"
          "-append \"$(cat ${config.system.build.toplevel}/kernel-params) init=${config.system.build.toplevel}/init\""
        ]
        ++ lib.optionals (isNew && cfg.qemu.enableSharedMemory) [
          "-object memory-backend-memfd,id=mem,size=${toString cfg.memorySize}M,share=on"
          "-machine memory-backend=mem"
        ]
        ++ lib.optionals isNew (
          lib.concatMap (tag: [
            "-chardev socket,id=fs-${tag},path=\"$TMPDIR\"/${tag}.sock"
            "-device vhost-user-fs-pci,chardev=fs-${tag},tag=${tag}"
          ]) (lib.attrNames cfg.sharedDirectories)
        )
        ++ lib.concatMap (number: flagsOf number (lib.elemAt vlans (number - 1))) numbers;
        drives = lib.mkMerge [
          (lib.mkIf (cfg.diskImage != null) [
            {
              name = "root";
              file = "\"$NIX_DISK_IMAGE\"";
              driveExtraOpts = {
                cache = "writeback";
                werror = "report";
              };
              deviceExtraOpts = {
                bootindex = "1";
                serial = "root";
              };
            }
          ])
          (lib.mkIf cfg.useNixStoreImage [
            {
              name = "nix-store";
              file = "\"$TMPDIR\"/store.img";
              driveExtraOpts.format = "raw";
              deviceExtraOpts.bootindex = "2";
            }
          ])
          (map (number: {
            file = "$(pwd)/empty${toString number}.qcow2";
            driveExtraOpts.werror = "report";
            deviceExtraOpts = (lib.elemAt cfg.emptyDiskImages number).driveConfig.deviceExtraOpts or { };
          }) (lib.range 0 (lib.length cfg.emptyDiskImages - 1)))
        ];
      };
    };
  };
}
