# Snowboot for package sets of others: `pkgs.snowboot`, and `pkgs.testers.runSnowbootTest` beside `runNixOSTest`.
final: prev: {
  snowboot-python = final.python3.pkgs.callPackage ./packages/python.nix { };
  snowboot = final.callPackage ./packages/snowboot.nix { };
  testers = prev.testers // {
    runSnowbootTest =
      (import ./lib.nix {
        pkgs = final;
        program = final.snowboot;
      }).runTest;
  };
}
