{
  name = "vlans";

  nodes = {
    # Addresses are 192.168.VLAN.NODE, where nodes are numbered by name: inside is 1, outside 2 and router 3.
    inside = {
      virtualisation.vlans = [ 1 ];
      networking.interfaces.eth1.ipv4.routes = [
        {
          address = "192.168.2.0";
          prefixLength = 24;
          via = "192.168.1.3";
        }
      ];
    };
    outside = {
      virtualisation.vlans = [ 2 ];
      networking.interfaces.eth1.ipv4.routes = [
        {
          address = "192.168.1.0";
          prefixLength = 24;
          via = "192.168.2.3";
        }
      ];
    };
    router = {
      virtualisation.vlans = [
        1
        2
      ];
      boot.kernel.sysctl."net.ipv4.ip_forward" = true;
    };
  };

  testScript = ''
    start_all()
    for machine in machines:
        machine.wait_for_unit("network.target")

    with subtest("the router sees both networks"):
        router.succeed("ping -c 1 192.168.1.1")
        router.succeed("ping -c 1 192.168.2.2")

    with subtest("and carries what goes from one to the other"):
        inside.wait_until_succeeds("ping -c 1 192.168.2.2", timeout=60)
  '';
}
