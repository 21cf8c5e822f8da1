{
  name = "machine";

  nodes.machine =
    { pkgs, ... }:
    {
      virtualisation.memorySize = 512;
      environment.systemPackages = [ pkgs.hello ];
    };

  testScript = ''
    machine.wait_for_unit("multi-user.target")
    assert "Hello" in machine.succeed("hello")
  '';
}
