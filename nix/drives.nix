# The drives of a node (virtualisation.qemu.drives) as disks of a manifest, in the same order: /dev/vda, /dev/vdb ...
{ lib }:
{ cfg, storeImage }:

let
  drives = cfg.qemu.drives;

  kind =
    drive:
    if drive.name or null == "root" || lib.hasInfix "$NIX_DISK_IMAGE" drive.file then
      "root"
    else if drive.name or null == "nix-store" || lib.hasSuffix "/store.img" drive.file then
      "store"
    else if emptyNumber drive != null then
      "empty"
    else if
      lib.hasPrefix "/" drive.file
      && !(lib.any (c: lib.hasInfix c drive.file) [
        "$"
        "\""
        "'"
        "`"
        ","
      ])
    then
      "file"
    else
      "unknown";

  # The start script of QEMU has a file for each empty image.
  emptyNumber =
    drive:
    let
      found = builtins.match ".*/empty([0-9]+)\\.qcow2" drive.file;
    in
    if found == null then null else lib.toInt (lib.head found);

  # What matters to QEMU's caches or to firmware, and to no guest that is booted directly.
  idle = [
    "aio"
    "bootindex"
    "cache"
    "detect-zeroes"
    "discard"
    "rerror"
    "werror"
  ];
  isOn =
    value:
    lib.elem value [
      "on"
      "true"
    ];
  known = {
    drive = idle ++ [
      "format"
      "readonly"
      "read-only"
      "snapshot"
    ];
    device = idle ++ [ "serial" ];
  };

  common =
    drive:
    let
      serial = drive.deviceExtraOpts.serial or null;
    in
    lib.optionalAttrs (serial != null) { inherit serial; };

  rootDisk =
    drive:
    let
      image = cfg.diskImage;
      # What is relative is in the run's own folder, and gone with it.
      isKept = image != null && lib.hasPrefix "/" (toString image);
      isInStore = isKept && lib.hasPrefix builtins.storeDir (toString image);
      empty = {
        # What is no number is refused, and who has that ignored gets the usual size.
        create-mib = if lib.isInt cfg.diskSize then cfg.diskSize else 1024;
      }
      // lib.optionalAttrs cfg.useDefaultFilesystems {
        filesystem = "ext4";
        label = "nixos";
      };
    in
    common drive
    // (
      if isInStore then
        {
          path = "${image}";
          snapshot = true;
        }
      else
        empty // lib.optionalAttrs isKept { path = toString image; }
    );

  emptyDisk =
    drive:
    let
      image = lib.elemAt cfg.emptyDiskImages (emptyNumber drive);
    in
    common drive // { create-mib = image.size or image; };

  file =
    drive:
    let
      options = drive.driveExtraOpts or { };
      isReadOnly = isOn (options.readonly or options.read-only or "off");
    in
    common drive
    // {
      path = drive.file;
    }
    // lib.optionalAttrs (options ? format) { inherit (options) format; }
    // lib.optionalAttrs isReadOnly { read-only = true; }
    // lib.optionalAttrs (!isReadOnly && isOn (options.snapshot or "off")) { snapshot = true; };

  storeDisk =
    drive:
    common drive
    // {
      path = "${storeImage}";
      read-only = true;
    };

  makers = {
    root = rootDisk;
    store = storeDisk;
    empty = emptyDisk;
    inherit file;
    # Refused below; who has that ignored goes without.
    unknown = _: null;
  };

  problem =
    drive:
    let
      found = kind drive;
      strange =
        lib.subtractLists known.drive (lib.attrNames (drive.driveExtraOpts or { }))
        ++ lib.subtractLists known.device (lib.attrNames (drive.deviceExtraOpts or { }));
      format = drive.driveExtraOpts.format or "raw";
      at = option: why: instead: [ { inherit option why instead; } ];
    in
    (
      if found == "unknown" then
        at "virtualisation.qemu.drives"
          "the file `${drive.file}` is known only to the shell of QEMU's start script"
          "give the image by an absolute path, or have an empty disk (virtualisation.emptyDiskImages)"
      else if strange != [ ] then
        at "virtualisation.qemu.drives" "the drive `${drive.file}` has ${
          lib.concatMapStringsSep ", " (name: "`${name}`") strange
        }, which Snowboot's disks have not" "take that out of its driveExtraOpts or deviceExtraOpts"
      else if
        found == "file"
        && !(lib.elem format [
          "raw"
          "qcow2"
        ])
      then
        at "virtualisation.qemu.drives" "the drive `${drive.file}` has the format ${format}"
          "convert it to raw or qcow2"
      else
        [ ]
    );

  sizes = lib.optional (cfg.diskImage != null && !(lib.isInt cfg.diskSize)) {
    option = "virtualisation.diskSize";
    why = "`${
      if cfg.diskSize == null then "null" else toString cfg.diskSize
    }` is no number of MiB, and there is no image to take the size of";
    instead = "give a number of MiB";
  };
in
{
  # Where the store's image is among the drives, from 0; null without one.
  storePlace = lib.lists.findFirst (place: kind (lib.elemAt drives place) == "store") null (
    lib.range 0 (lib.length drives - 1)
  );

  disks =
    { hasStore }:
    lib.filter (disk: disk != null) (
      map (drive: makers.${kind drive} drive) (
        lib.filter (drive: hasStore || kind drive != "store") drives
      )
    );

  problems = lib.concatMap problem drives ++ sizes;
}
