//! `--disk FILE[,OPTION[=VALUE]]...`.

use std::path::PathBuf;
use std::str::FromStr;

use snowboot_config::{DiskConfig, Manifest, ValueError};

/// A line of help, in characters.
const LINE: usize = 100;

/// The options, as help shows them.
const OPTIONS: [&str; 12] = [
    "read-only",
    "format=raw|qcow2",
    "snapshot",
    "memory",
    "create=MIB",
    "backing=FILE",
    "backing-format=FORMAT",
    "filesystem=ext4",
    "label=TEXT",
    "serial=TEXT",
    "flush=always|never",
    "engine=io-uring|threads",
];

/// The options, on lines of their own for the end of a help.
pub(crate) fn help() -> String {
    let mut text = "Options of --disk:".to_owned();
    let mut length = usize::MAX;
    for option in OPTIONS {
        if length.saturating_add(option.len()) > LINE {
            text.push_str("\n  ");
            length = 2;
        } else {
            text.push_str(", ");
            length = length.saturating_add(2);
        }
        text.push_str(option);
        length = length.saturating_add(option.len());
    }
    text
}

/// Reads a disk; a comma in a value is written twice.
pub(crate) fn parse(text: &str) -> Result<DiskConfig, String> {
    let mut parts = split(text).into_iter();
    let path = parts.next().filter(|path| !path.is_empty()).map(PathBuf::from);
    let mut disk = DiskConfig { path, ..DiskConfig::default() };
    for option in parts {
        apply(&mut disk, &option)?;
    }
    match disk.check() {
        Ok(()) => Ok(disk),
        Err(("path", _)) => {
            Err("name the disk's file first, or give create=MIB for a temporary disk".to_owned())
        }
        Err((key, why)) => Err(format!("`{key}`: {why}")),
    }
}

fn apply(disk: &mut DiskConfig, option: &str) -> Result<(), String> {
    match option.split_once('=').unwrap_or((option, "")) {
        ("read-only", "") => disk.read_only = true,
        ("snapshot", "") => disk.snapshot = true,
        ("memory", "") => disk.memory = true,
        (flag @ ("read-only" | "snapshot" | "memory"), _) => return Err(format!("`{flag}` takes no value")),
        ("serial", serial) => disk.serial = Some(serial.to_owned()),
        ("label", label) => disk.label = Some(label.to_owned()),
        ("create", size) => disk.create_mib = Some(mib(size)?),
        ("format", word) => disk.format = Some(parsed(word)?),
        ("backing", file) => disk.backing_file = Some(PathBuf::from(file)),
        ("backing-format", word) => disk.backing_format = Some(parsed(word)?),
        ("filesystem", word) => disk.filesystem = Some(parsed(word)?),
        ("flush", word) => disk.flush = Some(parsed(word)?),
        ("engine", word) => disk.engine = Some(parsed(word)?),
        (other, _) => return Err(unknown(other)),
    }
    Ok(())
}

fn parsed<T: FromStr<Err = ValueError>>(word: &str) -> Result<T, String> {
    word.parse().map_err(|error: ValueError| error.0)
}

fn mib(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|mib| (1..=Manifest::MAX_CREATE_MIB).contains(mib)).ok_or_else(|| {
        format!("`create={text}` is not a size: give a number of MiB, 1 to {}", Manifest::MAX_CREATE_MIB)
    })
}

fn unknown(name: &str) -> String {
    let nearest = OPTIONS
        .into_iter()
        .filter_map(|option| option.split('=').next())
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, known)) => format!("unknown disk option `{name}`; did you mean `{known}`?"),
        None => format!(
            "unknown disk option `{name}`; there are {} (a comma in a file's name is written twice)",
            OPTIONS.join(", ")
        ),
    }
}

/// Splits at single commas; two are one that stays.
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(char);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use snowboot_config::DiskEngine;

    use super::*;

    #[test]
    fn a_file_alone_and_with_all_its_options() {
        let plain = parse("root.img").unwrap();
        assert_eq!((plain.path, plain.read_only), (Some(PathBuf::from("root.img")), false));
        let disk = parse("a b.img,serial=root,create=64").unwrap();
        assert_eq!((disk.serial.as_deref(), disk.create_mib), (Some("root"), Some(64)));
        assert!(parse("x,read-only").unwrap().read_only);
    }

    #[test]
    fn a_comma_in_the_name_is_written_twice() {
        let disk = parse("a,,b,,,read-only").unwrap();
        assert_eq!((disk.path, disk.read_only), (Some(PathBuf::from("a,b,")), true));
    }

    #[test]
    fn images_over_others_and_temporary_disks() {
        let disk = parse("a.qcow2,backing=base.img,backing-format=raw,flush=never").unwrap();
        assert_eq!(disk.backing_file, Some(PathBuf::from("base.img")));
        let disk = parse(",create=64,memory,filesystem=ext4,label=nixos").unwrap();
        assert_eq!((disk.path, disk.create_mib, disk.memory), (None, Some(64), true));
        assert!(parse("x,snapshot").unwrap().snapshot);
        assert_eq!(parse("x,engine=threads").unwrap().engine, Some(DiskEngine::Threads));
        assert!(help().contains("flush=always|never"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "name the disk's file first"),
            (",read-only", "name the disk's file first"),
            ("x,readonly", "did you mean `read-only`?"),
            ("x,format=vmdk", "`vmdk` is not an image format"),
            ("x,cache=none", "unknown disk option `cache`; there are read-only, format=raw|qcow2"),
            ("x,memory", "`memory`: `path` is a file"),
            ("x,read-only=yes", "takes no value"),
            ("x,serial=", "1 to 20 printable"),
            ("x,create=1G", "number of MiB"),
            ("x,create=0", "number of MiB"),
            ("x,create=16777217", "1 to 16777216"),
            ("x,create=1,read-only", "keep one of the two"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
