# A test that Nix evaluates, builds and runs, with machines of `cargo xtask guest` (folders in `guests`) and the program at `program`:
# the manifest, the unpacked kernels, the driver with its checks, and the run itself are derivations (`test`), and so are the start
# scripts of the same nodes for another driver (`vms`). Build tools are the host's.
{
  guests,
  program,
  interpreter,
}:

let
  stub = import ./nixpkgs/packages.nix { };
  inherit (stub) lib;

  # As much of nixpkgs' makeWrapper as the driver uses.
  makeWrapper = builtins.toFile "make-wrapper.sh" ''
    makeWrapper() {
      local program=$1 target=$2 flags=
      shift 2
      echo "#! /bin/bash" > "$target"
      while [ $# -gt 0 ]; do
        case $1 in
          --prefix) echo "export $2=\"$4$3\$$2\"" >> "$target"; shift 4 ;;
          --set) echo "export $2='$3'" >> "$target"; shift 3 ;;
          --add-flags) flags="$flags $2"; shift 2 ;;
        esac
      done
      echo "exec $program $flags \"\$@\"" >> "$target"
      chmod +x "$target"
    }
  '';
  build =
    attributes: script:
    derivation (
      {
        system = "x86_64-linux";
        builder = "/bin/bash";
        args = [
          "-ec"
          ''
            PATH=/usr/sbin:/usr/bin:/sbin:/bin
            . ${makeWrapper}
            ${script}
            :
          ''
        ];
      }
      // builtins.removeAttrs attributes [
        "buildCommand"
        "meta"
        "nativeBuildInputs"
        "passthru"
      ]
    )
    // (attributes.passthru or { })
    // {
      inherit attributes;
    };

  pkgs = stub // {
    runCommand =
      name: attributes: script:
      build (attributes // { inherit name; }) script;
    writeText =
      name: text:
      build {
        inherit name text;
        passAsFile = [ "text" ];
      } "cp $textPath $out";
    writeScript =
      name: text:
      build {
        inherit name text;
        passAsFile = [ "text" ];
      } "cp $textPath $out; chmod +x $out";
    closureInfo =
      { rootPaths }:
      build {
        name = "closure-info";
        inherit rootPaths;
      } "mkdir $out; touch $out/registration";
    stdenv = stub.stdenv // {
      mkDerivation = attributes: build attributes attributes.buildCommand;
    };
    coreutils = "/usr";
    e2fsprogs = "/usr";
    erofs-utils = "/usr";
    testers.runNixOSTest = import ./nixpkgs/nixos-test.nix { inherit pkgs; };
  };

  package = build { name = "snowboot"; } "mkdir -p $out/bin; ln -s ${program} $out/bin/snowboot" // {
    python.interpreter = _: interpreter;
  };
  snowboot = import ../.. {
    inherit pkgs;
    program = package;
  };

  guest =
    name:
    { lib, config, ... }:
    let
      files = "${guests}/${name}";
      spec = (builtins.fromJSON (builtins.readFile "${files}/boot.json"))."org.nixos.bootspec.v1";
      copy = file: as: pkgs.runCommand as { } "mkdir $out; cp ${files}/${file} $out/${as}";
    in
    {
      system.build = {
        kernel = lib.mkForce (copy "kernel" "bzImage");
        toplevel = lib.mkForce (copy "kernel-params" "kernel-params");
      };
      boot.kernelParams = lib.mkForce spec.kernelParams;
      # The root image of these guests has a toplevel of its own.
      snowboot.extraMachineConfig.cmdline = lib.concatStringsSep " " (
        config.boot.kernelParams ++ [ "init=${spec.init}" ]
      );
      virtualisation = {
        memorySize = 256;
        diskImage = null;
        mountHostNixStore = false;
        directBoot.initrd = "${copy "initrd" "initrd"}/initrd";
        emptyDiskImages = [ 16 ];
        qemu.drives = [
          {
            file = "${files}/root.erofs";
            driveExtraOpts = {
              format = "raw";
              readonly = "on";
            };
            deviceExtraOpts.serial = "root";
          }
        ];
      };
    };

  nodes = {
    machine1 = {
      imports = [ (guest "machine1") ];
      virtualisation.forwardPorts = [
        {
          from = "host";
          proto = "tcp";
          host = {
            address = "127.0.0.1";
            port = 2080;
          };
          guest = {
            address = "";
            port = 9000;
          };
        }
      ];
    };
    machine2 = {
      imports = [ (guest "machine2") ];
      virtualisation.restrictNetwork = true;
    };
  };

  test = snowboot.lib.runTest {
    name = "end-to-end";
    # This host need not have the tools.
    skipLint = true;
    skipTypeCheck = true;
    inherit nodes testScript;
  };

  ofOtherDriver = pkgs.testers.runNixOSTest {
    name = "start-scripts";
    defaults.imports = [ snowboot.nixosModules.vm ];
    inherit nodes;
    testScript = "";
  };

  testScript = ''
    import socket
    import threading

    start_all()
    for machine in machines:
        machine.wait_for_unit("multi-user.target")
    machine1.succeed("ping -c 1 machine2")
    with subtest("disks are as the options have them"):
        assert machine1.succeed("cat /sys/block/vda/size").strip() == str(16 << 11)
    with subtest("folders of the run are shared"):
        machine1.succeed("mkdir -p /tmp/of-all && mount -t 9p -o trans=virtio,version=9p2000.L shared /tmp/of-all")
        machine1.succeed("echo seen > /tmp/of-all/note")
        assert (machine1.shared_dir / "note").read_text() == "seen\n"
    with subtest("the user network"):
        with socket.create_server(("127.0.0.1", 0)) as service:
            threading.Thread(target=lambda: service.accept()[0].sendall(b"hello\n"), daemon=True).start()
            port = service.getsockname()[1]
            for machine in machines:
                machine.succeed("ip address add 10.0.2.15/24 dev eth0 && ip link set eth0 up")
            machine2.fail(f"timeout 5 bash -c 'cat </dev/tcp/10.0.2.2/{port}'")
            assert machine1.succeed(f"cat </dev/tcp/10.0.2.2/{port}") == "hello\n"
        machine1.succeed("systemd-run sh -c 'nc -l 9000 >/tmp/forwarded'")
        machine1.wait_until_succeeds("ss -tln | grep :9000")
        with socket.create_connection(("127.0.0.1", 2080)) as client:
            client.sendall(b"in\n")
        machine1.wait_until_succeeds("grep in /tmp/forwarded", timeout=60)
    machine1.succeed("echo the guest was here > /tmp/answer")
    machine1.copy_from_machine("/tmp/answer")
  '';
in
{
  inherit test;
  vms = lib.mapAttrs (_: node: node.system.build.vm) ofOtherDriver.nodes;
}
