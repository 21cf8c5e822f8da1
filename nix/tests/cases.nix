# Tests whose manifests are in expected/, one for each thing that a node can ask for.
{
  two-nodes = {
    nodes = {
      client = { };
      server.virtualisation.memorySize = 2048;
      server.virtualisation.cores = 2;
    };
    globalTimeout = 600;
  };

  # Numbers go by the nodes' names, machines by their hosts'.
  renamed.nodes = {
    a.networking.hostName = "zulu";
    b = { };
  };

  networks = {
    nodes = {
      alone.virtualisation.vlans = [ ];
      isolated =
        { lib, ... }:
        {
          virtualisation.qemu.networkingOptions = lib.mkForce [ ];
        };
      named.virtualisation.interfaces = {
        enp1s0.vlan = 3;
        bond0.vlan = 7;
      };
      router.virtualisation.vlans = [
        1
        2
        0
      ];
      shut.virtualisation.restrictNetwork = true;
      web.virtualisation.forwardPorts = [
        {
          from = "host";
          proto = "tcp";
          host = {
            address = "";
            port = 8080;
          };
          guest = {
            address = "";
            port = 80;
          };
        }
        {
          from = "guest";
          proto = "tcp";
          host = {
            address = "127.0.0.1";
            port = 5432;
          };
          guest = {
            address = "10.0.2.10";
            port = 5432;
          };
        }
      ];
    };
  };

  disks = {
    nodes = {
      bare.virtualisation.diskImage = null;
      blank.virtualisation = {
        useDefaultFilesystems = false;
        diskSize = 4096;
      };
      many.virtualisation.emptyDiskImages = [
        512
        64
      ];
      others.virtualisation.qemu.drives = [
        {
          file = "/images/install.iso";
          driveExtraOpts = {
            format = "raw";
            readonly = "on";
          };
          deviceExtraOpts.serial = "cd";
        }
        {
          file = "/images/data.qcow2";
          driveExtraOpts.snapshot = "on";
          deviceExtraOpts = { };
        }
      ];
      kept.virtualisation.diskImage = "/var/lib/kept.img";
    };
  };

  stores = {
    nodes = {
      image.virtualisation.useNixStoreImage = true;
      image-and-disks.virtualisation = {
        useNixStoreImage = true;
        emptyDiskImages = [ 8 ];
      };
      no-root.virtualisation = {
        useNixStoreImage = true;
        diskImage = null;
      };
      pmem = {
        virtualisation.useNixStoreImage = true;
        snowboot.storeDevice = "pmem";
      };
      prepared = {
        virtualisation.useNixStoreImage = true;
        snowboot.prepareStore = true;
      };
    };
  };

  boot = {
    nodes = {
      credentials.virtualisation.credentials.token.text = "a b";
      fast.snowboot.extraMachineConfig.profile = "fast";
      packed.snowboot.unpackKernel = false;
      params.boot.kernelParams = [ "quiet" ];
    };
  };

  # With the module for guests, shares are virtio-fs on both sides.
  guest = {
    defaults.imports = [ ../modules/guest.nix ];
    nodes.machine.virtualisation.sharedDirectories.data = {
      source = "/srv/data";
      target = "/data";
    };
  };

  # All that is honoured, together.
  everything = {
    globalTimeout = 1234;
    extraPythonPackages = packages: [ packages.numpy ];
    nodes.machine =
      { pkgs, ... }:
      {
        networking.hostName = "everything";
        boot.kernelParams = [ "quiet" ];
        snowboot = {
          unpackKernel = false;
          prepareStore = true;
          extraMachineConfig.profile = "fast";
        };
        virtualisation = {
          additionalPaths = [ pkgs.coreutils ];
          cores = 32;
          credentials.token.text = "a b";
          diskSize = 4096;
          emptyDiskImages = [
            64
            512
          ];
          forwardPorts = [
            {
              from = "host";
              proto = "udp";
              host = {
                address = "127.0.0.1";
                port = 5353;
              };
              guest = {
                address = "10.0.2.15";
                port = 53;
              };
            }
          ];
          interfaces.lan = {
            vlan = 255;
            assignIP = true;
          };
          memorySize = 65536;
          qemu.consoles = [
            "tty0"
            "ttyS0,115200n8"
          ];
          qemu.drives = [
            {
              file = "/images/data.qcow2";
              driveExtraOpts = {
                format = "qcow2";
                cache = "unsafe";
                snapshot = "on";
              };
              deviceExtraOpts = {
                bootindex = "3";
                serial = "data";
              };
            }
          ];
          qemu.options = [
            "-cpu max"
            "-nographic"
          ];
          restrictNetwork = true;
          sharedDirectories = {
            own = {
              source = "$SHARED_DIR/own";
              target = "/own";
            };
            fixed = {
              source = "/srv/fixed";
              target = "/fixed";
              writable = false;
            };
          };
          useNixStoreImage = true;
          vlans = [
            0
            2
          ];
          writableStore = true;
        };
      };
  };

  ignored = {
    snowboot.ignore = [ "virtualisation.tpm.enable" ];
    nodes.machine = {
      virtualisation.tpm.enable = true;
      virtualisation.qemu.options = [ "-vga none -device virtio-gpu-pci" ];
      snowboot.ignore = [ "virtualisation.qemu.options" ];
    };
  };
}
