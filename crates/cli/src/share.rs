//! `--share TAG=FOLDER[,writable][,cache=POLICY][,protocol=NAME]`.

use std::path::PathBuf;

use snowboot_config::{ShareCache, ShareConfig, ShareProtocol};

use crate::disk::split;

const OPTIONS: [&str; 3] = ["writable", "cache", "protocol"];

/// Reads a share; a comma in the folder's name is written twice.
pub(crate) fn parse(text: &str) -> Result<ShareConfig, String> {
    let mut parts = split(text).into_iter();
    let place = parts.next().unwrap_or_default();
    let (tag, path) = place.split_once('=').unwrap_or_default();
    if tag.is_empty() || path.is_empty() {
        return Err("name the share's tag and folder first, as in shared=/tmp/shared".to_owned());
    }
    ShareConfig::check_tag(tag).map_err(|error| error.to_string())?;
    let mut share = ShareConfig {
        tag: tag.to_owned(),
        path: PathBuf::from(path),
        writable: false,
        cache: ShareCache::default(),
        protocol: ShareProtocol::default(),
    };
    for option in parts {
        apply(&mut share, &option)?;
    }
    Ok(share)
}

fn apply(share: &mut ShareConfig, option: &str) -> Result<(), String> {
    let wrong = |error: snowboot_config::ValueError| error.to_string();
    match option.split_once('=').unwrap_or((option, "")) {
        ("writable", "") => share.writable = true,
        ("cache", policy) => share.cache = policy.parse().map_err(wrong)?,
        ("protocol", protocol) => share.protocol = protocol.parse().map_err(wrong)?,
        ("writable", _) => return Err("`writable` takes no value".to_owned()),
        (other, _) => return Err(unknown(other)),
    }
    Ok(())
}

fn unknown(name: &str) -> String {
    let distance = |known| strsim::damerau_levenshtein(name, known);
    match OPTIONS.into_iter().min_by_key(|known| distance(known)).filter(|known| distance(known) <= 3) {
        Some(known) => format!("unknown share option `{name}`; did you mean `{known}`?"),
        None => format!(
            "unknown share option `{name}`; there are writable, cache=POLICY and protocol=NAME (a comma in the folder's \
            name is written twice)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_alone_and_with_all_its_options() {
        let plain = parse("nix-store=/nix/store").unwrap();
        assert_eq!((plain.tag.as_str(), plain.path), ("nix-store", PathBuf::from("/nix/store")));
        assert_eq!((plain.writable, plain.cache), (false, ShareCache::Always));
        let share = parse("x=a,,b=c,writable,cache=never,protocol=virtiofs").unwrap();
        assert_eq!((share.path, share.writable), (PathBuf::from("a,b=c"), true));
        assert_eq!((share.cache, share.protocol), (ShareCache::Never, ShareProtocol::Virtiofs));
        assert_eq!(parse("x=/a,protocol=9p").unwrap().protocol, ShareProtocol::NineP);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "tag and folder first"),
            ("/tmp", "tag and folder first"),
            ("=/tmp", "tag and folder first"),
            ("x=", "tag and folder first"),
            ("a b=/tmp", "without spaces"),
            ("x=/tmp,writeable", "did you mean `writable`?"),
            ("x=/tmp,writable=yes", "takes no value"),
            ("x=/tmp,cache=loose", "always, auto or never"),
            ("x=/tmp,protocol=nfs", "no protocol for shares"),
            ("x=/tmp,something-else", "unknown share option"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
