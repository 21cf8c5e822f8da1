# A test that Nix evaluates, builds and runs, with machines of `cargo xtask guest` (folders in `guests`) and the program at `program`:
# the manifest, the unpacked kernels, the driver with its checks, and the run itself are derivations. Build tools are the host's.
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
      system.build = lib.mkForce {
        kernel = copy "kernel" "bzImage";
        toplevel = copy "kernel-params" "kernel-params";
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
        qemu.networkingOptions = lib.mkForce [ ];
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
in
snowboot.lib.runTest {
  name = "end-to-end";
  # This host need not have the tools.
  skipLint = true;
  skipTypeCheck = true;
  nodes = {
    machine1 = guest "machine1";
    machine2 = guest "machine2";
  };
  testScript = ''
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
    machine1.succeed("echo the guest was here > /tmp/answer")
    machine1.copy_from_machine("/tmp/answer")
  '';
}
