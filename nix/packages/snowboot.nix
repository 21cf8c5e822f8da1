# The program, with the interpreter that runs test scripts.
{
  lib,
  rustPlatform,
  rustc,
  installShellFiles,
  makeWrapper,
  callPackage,
  python3,
  snowboot-python ? python3.pkgs.callPackage ./python.nix { },
}:

let
  source = callPackage ./source.nix { };
  python = {
    package = snowboot-python;
    # The path of an interpreter with Snowboot's package, what a session likes to have, and packages of the user's.
    interpreter =
      packages:
      let
        environment = python3.withPackages (
          available:
          [
            snowboot-python
            available.ipython
            available.ptpython
          ]
          ++ packages available
        );
      in
      "${environment}/bin/python3";
  };
in
source.checkCompiler rustPlatform.buildRustPackage {
  pname = "snowboot";
  inherit (source) version src cargoLock;

  cargoBuildFlags = [
    "--package"
    "snowboot-cli"
  ];
  # The project's own tests need KVM, guests and Debian's tools: `cargo xtask test`.
  doCheck = false;

  nativeBuildInputs = [
    installShellFiles
    makeWrapper
  ];
  postInstall = ''
    for shell in bash fish zsh; do
      $out/bin/snowboot completions $shell > snowboot.$shell
    done
    installShellCompletion snowboot.{bash,fish,zsh}
    mkdir -p $out/share/man/man1
    $out/bin/snowboot man --output $out/share/man/man1
    wrapProgram $out/bin/snowboot --set-default SNOWBOOT_PYTHON ${python.interpreter (_: [ ])}
  '';

  passthru = { inherit python; };

  meta = {
    description = "Virtual machines and NixOS tests on KVM";
    license = [
      lib.licenses.asl20
      lib.licenses.mit
    ];
    platforms = [ "x86_64-linux" ];
    mainProgram = "snowboot";
  };
}
