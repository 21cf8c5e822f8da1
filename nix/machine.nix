# What Snowboot makes of a node of a NixOS test: the machine as a manifest has it (docs/manifest.md), and what of the node's
# options stands in the way. Everything is decided while Nix evaluates.
{
  lib,
  hostPkgs,
  program,
}:

# `framework.qemu` is the QEMU package that the test framework gave the node, if it is known.
{
  config,
  pkgs,
  snowboot ? { },
  framework ? { },
}:

let
  cfg = config.virtualisation;
  inherit (config.system.build) toplevel;

  settings = {
    unpackKernel = true;
    prepareStore = false;
    storeDevice = "disk";
    machine = { };
  }
  // snowboot;

  refuse = import ./refuse.nix { inherit lib; } {
    inherit
      config
      pkgs
      framework
      ;
  };
  drives = import ./drives.nix { inherit lib; } { inherit cfg storeImage; };

  # As in the start script of QEMU: the closure that the guest's Nix database learns of.
  registration = hostPkgs.closureInfo { rootPaths = cfg.additionalPaths; };
  closure = hostPkgs.closureInfo {
    rootPaths = [
      toplevel
      registration
    ];
  };

  packedKernel = "${config.system.build.kernel}/${config.system.boot.loader.kernelFile}";
  # The same for all machines and tests with this kernel, so that no run has to unpack it.
  kernel =
    if settings.unpackKernel then
      "${hostPkgs.runCommand "vmlinux" { } "${program}/bin/snowboot kernel unpack ${packedKernel} $out"}"
    else
      packedKernel;

  cmdline = lib.concatStringsSep " " (
    config.boot.kernelParams
    ++ [
      "init=${toplevel}/init"
      "regInfo=${registration}/registration"
    ]
    ++ map (console: "console=${console}") (cfg.qemu.consoles or [ ])
    ++ refuse.credentials
  );

  storeImage =
    hostPkgs.runCommand "nix-store.erofs" { nativeBuildInputs = [ hostPkgs.erofs-utils ]; }
      ''
        ${program}/bin/snowboot store image --closure ${closure}/store-paths -o $out
      '';
  isPmem = settings.storeDevice == "pmem";
  # The manifest's own key for stores makes the second disk of it, which is where QEMU's start script has it as a rule.
  isStoreADisk = cfg.useNixStoreImage && !isPmem && (settings.prepareStore || drives.storePlace != 1);
  store =
    if !cfg.useNixStoreImage || isStoreADisk then
      { }
    else if settings.prepareStore then
      { pmem = [ { path = "${storeImage}"; } ]; }
    else
      {
        store = {
          closure = "${closure}/store-paths";
          as = settings.storeDevice;
        };
      };

  mounts = lib.filter (mount: mount.device or null != null) (lib.attrValues config.fileSystems);
  # Which protocol a guest speaks is in its own mounts: 9P up to spring 2026, virtio-fs since.
  protocol =
    tag:
    let
      mount = lib.findFirst (mount: mount.device == tag) { } mounts;
      other = if cfg ? msize then "9p" else "virtiofs";
    in
    if
      lib.elem (mount.fsType or null) [
        "9p"
        "virtiofs"
      ]
    then
      mount.fsType
    else
      other;
  share =
    tag: it:
    let
      writable = it.writable or (tag != "nix-store");
    in
    {
      inherit tag writable;
      path = toString it.source;
      protocol = protocol tag;
    }
    # What the host changes in a folder of both is to be seen.
    // lib.optionalAttrs (writable && protocol tag == "virtiofs") { cache = "auto"; };

  isForwarding = cfg.forwardPorts != [ ];
  userNetwork =
    if !(cfg.restrictNetwork || isForwarding) then
      true
    else
      {
        restrict = cfg.restrictNetwork;
      }
      // lib.optionalAttrs isForwarding { forward-ports = map forward cfg.forwardPorts; };
  forward =
    it:
    {
      inherit (it) from;
      protocol = it.proto;
      host-port = it.host.port;
      guest-port = it.guest.port;
    }
    // lib.optionalAttrs (it.host.address != "") { host-address = it.host.address; }
    // lib.optionalAttrs (it.guest.address != "") { guest-address = it.guest.address; };

  machine = {
    inherit kernel cmdline;
    initrd = "${cfg.directBoot.initrd}";
    memory = cfg.memorySize;
    vcpus = cfg.cores;
    vlans = refuse.vlans;
    disks = drives.disks { hasStore = isStoreADisk; };
    shares = lib.mapAttrsToList share cfg.sharedDirectories;
  }
  # Of which NixOS makes the node's addresses. A machine that is in no test has none.
  // lib.optionalAttrs (cfg ? test.nodeNumber) { number = cfg.test.nodeNumber; }
  // lib.optionalAttrs refuse.hasUserNetwork { user-network = userNetwork; }
  // store
  // settings.machine;
in
{
  inherit machine;
  # { option, why, instead }, for everything that cannot be honoured.
  problems = refuse.problems ++ drives.problems;
}
