# The NixOS modules that users import, for a package of Snowboot.
{ program }:
{
  vm = import ./vm.nix { inherit program; };
  guest = import ./guest.nix;
  node = import ./node.nix { inherit program; };
}
