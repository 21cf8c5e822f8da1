{
  description = "Virtual machines and NixOS tests on KVM";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      packages = {
        snowboot = pkgs.callPackage ./nix/packages/snowboot.nix { };
        snowboot-python = packages.snowboot.python.package;
        default = packages.snowboot;
      };
      program = packages.snowboot;
      forPkgs =
        pkgs:
        import ./nix/lib.nix {
          inherit pkgs program;
        };
      app = arguments: description: {
        type = "app";
        program = "${pkgs.writeShellScript "snowboot-app" ''exec ${program}/bin/snowboot ${arguments} "$@"''}";
        meta = { inherit description; };
      };
    in
    {
      packages.${system} = packages;
      overlays.default = import ./nix/overlay.nix;

      # `runTest` and `makeTest` for this flake's own nixpkgs; `forPkgs pkgs` has them for another package set.
      lib = forPkgs pkgs // {
        inherit forPkgs;
      };

      nixosModules = import ./nix/modules { inherit program; };

      apps.${system} = {
        default = app "" "Snowboot";
        test = app "test" "Run the test of a manifest";
        doctor = app "doctor" "Say what this host can do and what is missing";
      };

      checks.${system} = {
        inherit (packages) snowboot;
        template-machine = self.lib.runTest ./nix/templates/machine/test.nix;
        template-client-server = self.lib.runTest ./nix/templates/client-server/test.nix;
        template-vlans = self.lib.runTest ./nix/templates/vlans/test.nix;
      };

      devShells.${system}.default = pkgs.mkShell {
        packages = [
          pkgs.cargo
          pkgs.clippy
          pkgs.e2fsprogs
          pkgs.erofs-utils
          pkgs.python3
          pkgs.rustc
          pkgs.rustfmt
        ];
      };

      formatter.${system} = pkgs.nixfmt-rfc-style or pkgs.nixfmt;

      templates = {
        default = self.templates.machine;
        machine = {
          path = ./nix/templates/machine;
          description = "A NixOS test of a single machine";
        };
        client-server = {
          path = ./nix/templates/client-server;
          description = "A NixOS test of a client and a server";
        };
        vlans = {
          path = ./nix/templates/vlans;
          description = "A NixOS test of a router between two networks";
        };
      };
    };
}
