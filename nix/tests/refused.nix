# Tests that cannot run on Snowboot, by what stands in the way; what they are told is in expected/refused.json.
let
  node = machine: { nodes = { inherit machine; }; };
in
{
  boot-loader = node { virtualisation.useBootLoader = true; };
  efi = node { virtualisation.useEFIBoot = true; };
  secure-boot = node { virtualisation.useSecureBoot = true; };
  bios = node { virtualisation.bios = "qboot"; };
  tpm = node { virtualisation.tpm.enable = true; };
  certificates = node { virtualisation.useHostCerts = true; };
  display = node {
    virtualisation.qemu.options = [
      "-vga none"
      "-device virtio-gpu-pci"
    ];
  };
  flags = node {
    virtualisation.qemu.options = [
      "-machine"
      "q35,smm=on"
      "-device i6300esb"
      "-cpu max"
    ];
  };
  network-flags = node { virtualisation.qemu.networkingOptions = [ "-netdev tap,id=tap0" ]; };
  package =
    node (
      { pkgs, ... }:
      {
        virtualisation.qemu.package = pkgs.hello or pkgs.qemu;
      }
    )
    // {
      qemu.package = "qemu_test";
    };
  memory = node { virtualisation.memorySize = 32; };
  memory-large = node { virtualisation.memorySize = 65537; };
  cores = node { virtualisation.cores = 64; };
  vlan = node { virtualisation.vlans = [ 256 ]; };
  interface = node { virtualisation.interfaces.lan.vlan = 300; };
  disk-size = node { virtualisation.diskSize = null; };
  drive-file = node {
    virtualisation.qemu.drives = [
      {
        file = "$(mktemp)";
        driveExtraOpts = { };
        deviceExtraOpts = { };
      }
    ];
  };
  drive-option = node {
    virtualisation.qemu.drives = [
      {
        file = "/x.img";
        driveExtraOpts.media = "cdrom";
        deviceExtraOpts.logical_block_size = "4096";
      }
    ];
  };
  drive-format = node {
    virtualisation.qemu.drives = [
      {
        file = "/x.vmdk";
        driveExtraOpts.format = "vmdk";
        deviceExtraOpts = { };
      }
    ];
  };
  share = node {
    virtualisation.sharedDirectories.x = {
      source = "$(pwd)";
      target = "/x";
    };
  };
  share-quoted = node {
    virtualisation.sharedDirectories.x = {
      source = "/x/`id -u`";
      target = "/x";
    };
  };
  credential-lines = node { virtualisation.credentials.key.text = "a\nb"; };
  credential-quote = node { virtualisation.credentials.key.text = "a\"b"; };
  credential = node { virtualisation.credentials.key.source = "/run/key"; };
  ocr = node { } // {
    enableOCR = true;
  };
  containers = node { } // {
    containers.box = { };
  };
  no-nodes = {
    nodes = { };
  };
  host-name.nodes = {
    a.networking.hostName = "z";
    b.networking.hostName = "z";
  };
  several.nodes = {
    a.virtualisation.tpm.enable = true;
    b.virtualisation.useEFIBoot = true;
  };
}
