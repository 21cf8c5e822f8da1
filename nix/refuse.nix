# Options of a node that Snowboot has nothing for. Each is refused by name, with the reason and a way out; none is passed over
# in silence, since a test without it would test something else.
{ lib }:
{
  config,
  pkgs,
  framework,
}:

let
  cfg = config.virtualisation;
  wrong = option: why: instead: { inherit option why instead; };
  refuse =
    is: option: why: instead:
    lib.optional is (wrong option why instead);

  # What the NixOS modules themselves put on QEMU's command line, as patterns. Snowboot has it, or no guest misses it.
  isOurs = patterns: text: lib.any (pattern: builtins.match pattern text != null) patterns;
  options = [
    "-kernel .*"
    "-initrd .*"
    "-append .*"
    # Cards of the VLANs.
    "-device virtio-net-pci,netdev=vlan[0-9]+,mac=[0-9A-Fa-f:]+"
    "-netdev vde,id=vlan[0-9]+,sock=.*"
    # Keyboards and pointers, of which only people at a display have something.
    "-device virtio-keyboard"
    "-usb"
    "-device usb-tablet(,bus=usb-bus.0)?"
    "-device virtio-rng-pci"
    "-nographic"
    # The guest has the host's CPU anyway.
    "-cpu (host|max)"
    "-enable-kvm"
    # These come with an option that is looked at by its own name.
    "-drive if=pflash,.*"
    "-bios .*"
    "-chardev socket,id=chrtpm,.*"
    "-tpmdev .*"
    "-device tpm-.*"
    "-smbios type=11,value=io\\.systemd\\.credential.*"
    "-fw_cfg name=opt/io\\.systemd\\.credentials/.*"
  ];
  # Shares of NixOS since autumn 2026 are served by processes that have all of the guest's memory. Here nobody else serves them.
  sharedMemory = [
    "-object memory-backend-memfd,id=[^,]+,size=[0-9]+[KMG]?,share=on"
    "-machine memory-backend=[^,]+"
    "-numa node,memdev=[^,]+"
  ];
  ofShare =
    text:
    let
      tag = builtins.match "-device vhost-user-fs-pci,(.*,)?tag=([^,]+)(,.*)?" text;
    in
    tag != null && lib.elem (lib.elemAt tag 1) (lib.attrNames cfg.sharedDirectories);
  # The character devices of those.
  shareSockets = map (
    text:
    let
      found = builtins.match ".*[,]chardev=([^,]+).*" text;
    in
    if found == null then "" else lib.head found
  ) (lib.filter ofShare joined);
  isShareSocket =
    text:
    let
      id = builtins.match "-chardev socket,(.*,)?id=([^,]+)(,.*)?" text;
    in
    id != null && lib.elem (lib.elemAt id 1) shareSockets;
  isShared =
    text:
    ofShare text
    || isShareSocket text
    || (cfg.qemu.enableSharedMemory or false && isOurs sharedMemory text);
  trim = text: toString (builtins.match "[[:space:]]*(.*[^[:space:]])?[[:space:]]*" text);
  # A flag and its value may be two elements of the list.
  joined =
    let
      step =
        list: text:
        let
          before = if list == [ ] then "" else lib.last list;
          isValue = list != [ ] && !(lib.hasPrefix "-" text) && builtins.match "-[a-z]+" before != null;
        in
        if isValue then lib.init list ++ [ "${before} ${text}" ] else list ++ [ text ];
    in
    lib.foldl' step [ ] (map trim cfg.qemu.options);
  foreign = lib.filter (text: text != "" && !(isOurs options text || isShared text)) joined;
  isDisplay = text: builtins.match "-(vga|display|device (virtio-gpu|qxl|VGA|bochs)).*" text != null;

  networking = [
    "-net nic,netdev=user\\.0,model=virtio"
    "-netdev user,id=user\\.0,.*"
  ];
  foreignNetworking = lib.filter (text: !(isOurs networking text)) (
    cfg.qemu.networkingOptions or [ ]
  );

  ofInterfaces = lib.mapAttrsToList (_: interface: interface.vlan) (cfg.interfaces or { });
  vlans = cfg.vlans ++ ofInterfaces;
  strangeVlans =
    option: numbers:
    refuse (lib.any (vlan: vlan < 0 || vlan > 255) numbers) option "one of ${
      lib.concatMapStringsSep ", " toString numbers
    } is out of range" "choose 0 to 255";

  # systemd takes credentials from the kernel's command line, too. A quote would end the word there.
  credentials = cfg.credentials or { };
  isPlain = text: builtins.match "[^\"\n]*" text != null;
  credential = name: it: "\"systemd.set_credential=${name}:${it.text}\"";
  carried = lib.filterAttrs (_: it: it.text or null != null && isPlain it.text) credentials;
  notCarried = lib.attrNames (builtins.removeAttrs credentials (lib.attrNames carried));

  system = pkgs.stdenv.hostPlatform.system;
  firmware = "kernels are booted directly, without firmware";
  onQemu = "run this test on QEMU";
in
{
  inherit vlans;
  hasUserNetwork = (cfg.qemu.networkingOptions or [ "" ]) != [ ];
  credentials = lib.mapAttrsToList credential carried;

  problems =
    refuse (
      system != "x86_64-linux"
    ) "nixpkgs.hostPlatform" "machines are x86_64-linux, and this one is ${system}" onQemu
    ++
      refuse (!cfg.directBoot.enable) "virtualisation.directBoot.enable" "${firmware} or boot loader"
        "leave virtualisation.useBootLoader false, or set virtualisation.directBoot.enable"
    ++ refuse (cfg.useEFIBoot or false
    ) "virtualisation.useEFIBoot" "${firmware}, so there are no EFI variables" onQemu
    ++ refuse (cfg.useSecureBoot or false) "virtualisation.useSecureBoot" firmware onQemu
    ++ refuse (cfg.bios or null != null) "virtualisation.bios" firmware onQemu
    ++ refuse (cfg.tpm.enable or false) "virtualisation.tpm.enable" "machines have no TPM" onQemu
    ++
      refuse (cfg.useHostCerts or false) "virtualisation.useHostCerts"
        "the start script that would copy the host's certificates does not run"
        "add them with security.pki.certificateFiles"
    ++ map (
      text:
      wrong "virtualisation.qemu.options" (
        if isDisplay text then
          "`${text}` is about a display, and machines have none"
        else
          "`${text}` is a flag of QEMU's"
      ) "take it out, or run this test on QEMU"
    ) foreign
    ++ map (
      text:
      wrong "virtualisation.qemu.networkingOptions" "`${text}` is a flag of QEMU's"
        "say it with virtualisation.{vlans,interfaces,forwardPorts,restrictNetwork}"
    ) foreignNetworking
    ++
      refuse (framework ? qemu && cfg.qemu.package != framework.qemu) "virtualisation.qemu.package"
        "no package of QEMU runs here, so what is special about this one is missing"
        "leave the package out"
    ++ refuse (
      cfg.memorySize < 64 || cfg.memorySize > 65536
    ) "virtualisation.memorySize" "${toString cfg.memorySize} MiB are out of range" "choose 64 to 65536"
    ++ refuse (
      cfg.cores < 1 || cfg.cores > 32
    ) "virtualisation.cores" "${toString cfg.cores} are out of range" "choose 1 to 32"
    ++ strangeVlans "virtualisation.vlans" cfg.vlans
    ++ strangeVlans "virtualisation.interfaces" ofInterfaces
    ++ map (
      name:
      wrong "virtualisation.credentials"
        "`${name}` is no `text` that a word of the kernel's command line can hold, which is what carries credentials here"
        "give it as `text` of one line, without quotes"
    ) notCarried
    ++ lib.concatLists (
      lib.mapAttrsToList (
        tag: share:
        refuse (lib.hasInfix "$(" (toString share.source) || lib.hasInfix "`" (toString share.source))
          "virtualisation.sharedDirectories"
          "the source `${toString share.source}` of `${tag}` is a command of a shell"
          "give a path, with variables at most"
      ) cfg.sharedDirectories
    );
}
