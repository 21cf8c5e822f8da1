# NixOS module for guests of Snowboot. They need none of it; it makes their start quicker.
{
  config,
  lib,
  ...
}:

let
  cfg = config.virtualisation;
  tags = lib.attrNames cfg.sharedDirectories;
  mountOf =
    tag:
    if tag == "nix-store" && cfg.writableStore then
      "/nix/.ro-store"
    else
      cfg.sharedDirectories.${tag}.target;
in
{
  key = "snowboot/guest";

  # Shares by virtio-fs, which takes fewer and larger messages than 9P. What the 9P client was told is of no use to it.
  virtualisation.fileSystems = lib.listToAttrs (
    map (tag: {
      name = mountOf tag;
      value = {
        fsType = lib.mkForce "virtiofs";
        options = lib.mkForce [ (if tag == "nix-store" then "ro" else "rw") ];
      };
    }) tags
  );
  boot.initrd.availableKernelModules = [ "virtiofs" ];

  # /dev/console is the serial port, which is there; there is no display.
  virtualisation.graphics = lib.mkDefault false;

  # Nobody chooses at a boot loader, and a root file system is new.
  boot.loader.timeout = lib.mkDefault 0;
  boot.initrd.checkJournalingFS = lib.mkDefault false;

  # Ports and disks that machines do not have.
  boot.swraid.enable = lib.mkDefault false;
  boot.kernelParams = [ "8250.nr_uarts=1" ];

  # Wait for no address: scripts wait for what they need.
  networking.dhcpcd.wait = lib.mkDefault "background";
}
