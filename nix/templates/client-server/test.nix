{
  name = "client-server";

  nodes = {
    server = {
      services.nginx.enable = true;
      services.nginx.virtualHosts.default.locations."/".return = "200 snow";
      networking.firewall.allowedTCPPorts = [ 80 ];
    };
    client =
      { pkgs, ... }:
      {
        environment.systemPackages = [ pkgs.curl ];
      };
  };

  testScript = ''
    start_all()
    server.wait_for_unit("nginx.service")
    server.wait_for_open_port(80)
    client.wait_for_unit("network.target")
    assert client.succeed("curl --fail --silent http://server/") == "snow"
  '';
}
