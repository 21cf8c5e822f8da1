//! `--net user[,restrict][,dns=ADDRESS][,hostfwd=RULE]...`, as QEMU's `-nic user`.

use snowboot_config::UserNetworkConfig;

use crate::disk::split;

const OPTIONS: &str =
    "restrict, dns=ADDRESS and hostfwd=tcp::HOSTPORT-:GUESTPORT or hostfwd=unix:PATH-:GUESTPORT";

/// Reads a network.
pub(crate) fn parse(text: &str) -> Result<UserNetworkConfig, String> {
    let mut parts = split(text).into_iter();
    let kind = parts.next().unwrap_or_default();
    if kind != "user" {
        return Err(format!("there is no network `{kind}`: choose user"));
    }
    options(parts)
}

/// How [`parse_options`] is shown.
pub(crate) const SHARED: &str = "restrict,dns=ADDRESS,hostfwd=RULE...";

/// Reads what is behind the kind alone.
pub(crate) fn parse_options(text: &str) -> Result<UserNetworkConfig, String> {
    options(split(text).into_iter().filter(|option| !option.is_empty()))
}

fn options(options: impl Iterator<Item = String>) -> Result<UserNetworkConfig, String> {
    let mut network = UserNetworkConfig::default();
    for option in options {
        let wrong = |error: snowboot_config::ValueError| error.to_string();
        match option.split_once('=').unwrap_or((&option, "")) {
            ("restrict", "" | "on" | "yes") => network.restrict = true,
            ("dns", address) => network.dns = Some(UserNetworkConfig::parse_dns(address).map_err(wrong)?),
            ("hostfwd", rule) if rule.starts_with("unix:") => {
                network.forward_sockets.push(rule.parse().map_err(wrong)?);
            }
            ("hostfwd", rule) => network.forward_ports.push(rule.parse().map_err(wrong)?),
            _ => return Err(format!("`{option}` is not an option: there are {OPTIONS}")),
        }
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        assert_eq!(parse("user"), Ok(UserNetworkConfig::default()));
        let network = parse("user,restrict,dns=127.0.0.1:5353,hostfwd=tcp::0-:22,hostfwd=udp::1-:2").unwrap();
        assert!(network.restrict && network.forward_ports.len() == 2);
        assert_eq!(network.dns, "127.0.0.1:5353".parse().ok());
        let six = parse("user,hostfwd=tcp:[::1]:8080-[fec0::5054:ff:fe12:3456]:80,hostfwd=udp:[::]:53-:53")
            .unwrap();
        let ends: Vec<_> = six.forward_ports.iter().map(|it| format!("{} {}", it.host, it.guest)).collect();
        assert_eq!(ends, ["[::1]:8080 [fec0::5054:ff:fe12:3456]:80", "[::]:53 10.0.2.15:53"]);
        assert_eq!(parse_options(""), Ok(UserNetworkConfig::default()));
        assert!(parse_options("restrict,hostfwd=tcp::0-10.0.2.16:80").unwrap().restrict);
        assert!(parse_options("user").unwrap_err().contains("`user` is not an option"));
        let network = parse("user,hostfwd=unix:/run/web-:80").unwrap();
        assert_eq!(network.forward_sockets, ["unix:/run/web-:80".parse().unwrap()]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("tap", "choose user"),
            ("user,restrict=off", "`restrict=off` is not an option"),
            ("user,dns=x", "`x` is no resolver"),
            ("user,hostfwd=80", "`80` is no forward such as tcp::8080-:80"),
            ("user,smb=/tmp", "hostfwd=tcp::HOSTPORT-:GUESTPORT"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
