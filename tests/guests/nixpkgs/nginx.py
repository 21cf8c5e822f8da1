# A web server and a client: pages, entity tags, a reload with another configuration, TLS.
from textwrap import dedent

start_all()

# What NixOS modules would have configured.
server.succeed(
    "mkdir -p /srv/www /etc/nginx/tls",
    "echo 'hello from the server' > /srv/www/index.html",
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=server"
    " -addext subjectAltName=DNS:server -keyout /etc/nginx/tls/key.pem -out /etc/nginx/tls/cert.pem 2>/dev/null",
)
server.succeed(
    dedent(
        """
        cat > /etc/nginx/sites-enabled/default <<'EOF'
        server {
            listen 80;
            listen [::]:80;
            root /srv/www;
            location /private/ { return 403; }
            location = /whoami { default_type text/plain; return 200 "$remote_addr\\n"; }
        }
        server {
            listen 443 ssl;
            server_name server;
            ssl_certificate /etc/nginx/tls/cert.pem;
            ssl_certificate_key /etc/nginx/tls/key.pem;
            root /srv/www;
        }
        EOF
        """
    )
)
server.succeed("systemctl start --no-block nginx.service")

# The test.
url = "http://server/index.html"


def check_etag(url):
    etag = client.succeed(f"curl --fail -sI {url} | grep -i '^etag:' | cut -d' ' -f2- | tr -d '\\r'").strip()
    assert etag.startswith('"') and etag.endswith('"'), etag
    headers = f"--header 'If-None-Match: {etag}'"
    code = client.succeed(f"curl -s -o /dev/null -w '%{{http_code}}' {headers} {url}")
    assert code == "304", f"the page did not count as the same: {code}"
    return etag


server.wait_for_unit("nginx")
server.wait_for_open_port(80)
client.wait_for_unit("network.target")

with subtest("pages"):
    assert "hello from the server" in client.succeed(f"curl --fail {url}")
    client.succeed("curl -4 --fail http://server/", "curl -6 --fail http://server/")
    client.fail("curl --fail http://server/missing.html")
    client.fail("curl --fail http://server/private/")
    t.assertEqual("192.168.1.1", client.succeed("curl -4 --fail -s http://server/whoami").strip())

with subtest("an entity tag changes with the page"):
    first = check_etag(url)
    assert first == check_etag(url), "the tag changed, the page did not"
    server.succeed("echo 'another page, of another length' > /srv/www/index.html")
    assert first != check_etag(url), "the page changed, the tag did not"

with subtest("a reload takes the new configuration, and a broken one is refused"):
    pid = server.get_unit_property("nginx.service", "MainPID")
    server.succeed("sed -i 's/return 403;/return 410;/' /etc/nginx/sites-enabled/default", "systemctl reload nginx")
    client.wait_until_succeeds(
        "test 410 = $(curl -s -o /dev/null -w '%{http_code}' http://server/private/)", timeout=60
    )
    assert pid == server.get_unit_property("nginx.service", "MainPID")
    server.succeed("echo nonsense > /etc/nginx/sites-enabled/broken")
    server.fail("nginx -t")
    server.fail("systemctl reload nginx")
    server.succeed("rm /etc/nginx/sites-enabled/broken")
    client.succeed(f"curl --fail {url}")

with subtest("a large file is whole, over TLS"):
    server.succeed("head -c 8000000 /dev/urandom > /srv/www/large")
    wanted = server.succeed("sha256sum < /srv/www/large")
    certificate = server.succeed("cat /etc/nginx/tls/cert.pem")
    client.succeed(f"cat > /tmp/cert.pem <<'EOF'\n{certificate}\nEOF\n")
    client.fail("curl --fail -s https://server/large -o /dev/null")
    got = client.succeed("curl --cacert /tmp/cert.pem --fail -s https://server/large | sha256sum")
    t.assertEqual(wanted, got)

with subtest("the log names the client"):
    server.succeed("grep -E '^(192.168.1.1|2001:db8:1::1) .*/index.html' /var/log/nginx/access.log")

with subtest("it stops"):
    server.systemctl("stop nginx")
    server.wait_for_closed_port(80)
    client.fail(f"curl --fail {url}")
