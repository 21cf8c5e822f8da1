//! `--disk FILE[,read-only][,serial=S][,create=MIB]`.

use std::path::PathBuf;

use snowboot_config::{DiskConfig, Manifest};

const OPTIONS: [&str; 3] = ["read-only", "serial", "create"];

/// Reads a disk; a comma in the file's name is written twice.
pub(crate) fn parse(text: &str) -> Result<DiskConfig, String> {
    let mut parts = split(text).into_iter();
    let path = parts.next().filter(|path| !path.is_empty()).ok_or("name the disk's file first")?;
    let mut disk = DiskConfig { path: PathBuf::from(path), read_only: false, serial: None, create_mib: None };
    for option in parts {
        apply(&mut disk, &option)?;
    }
    if disk.read_only && disk.create_mib.is_some() {
        return Err("a disk that is made anew is of no use read-only: keep one of the two".to_owned());
    }
    Ok(disk)
}

fn apply(disk: &mut DiskConfig, option: &str) -> Result<(), String> {
    match option.split_once('=').unwrap_or((option, "")) {
        ("read-only", "") => disk.read_only = true,
        ("serial", serial) => {
            DiskConfig::check_serial(serial).map_err(|error| error.to_string())?;
            disk.serial = Some(serial.to_owned());
        }
        ("create", size) => disk.create_mib = Some(mib(size)?),
        ("read-only", _) => return Err("`read-only` takes no value".to_owned()),
        (other, _) => return Err(unknown(other)),
    }
    Ok(())
}

fn mib(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|mib| (1..=Manifest::MAX_CREATE_MIB).contains(mib)).ok_or_else(|| {
        format!("`create={text}` is not a size: give a number of MiB, 1 to {}", Manifest::MAX_CREATE_MIB)
    })
}

fn unknown(name: &str) -> String {
    let nearest = OPTIONS
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, known)) => format!("unknown disk option `{name}`; did you mean `{known}`?"),
        None => format!(
            "unknown disk option `{name}`; there are read-only, serial=TEXT and create=MIB (a comma in the file's \
            name is written twice)"
        ),
    }
}

/// Splits at single commas; two are one that stays.
fn split(text: &str) -> Vec<String> {
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
    use super::*;

    #[test]
    fn a_file_alone_and_with_all_its_options() {
        let plain = parse("root.img").unwrap();
        assert_eq!((plain.path.as_path(), plain.read_only), (std::path::Path::new("root.img"), false));
        let disk = parse("a b.img,serial=root,create=64").unwrap();
        assert_eq!((disk.serial.as_deref(), disk.create_mib), (Some("root"), Some(64)));
        assert!(parse("x,read-only").unwrap().read_only);
    }

    #[test]
    fn a_comma_in_the_name_is_written_twice() {
        let disk = parse("a,,b,,,read-only").unwrap();
        assert_eq!((disk.path, disk.read_only), (PathBuf::from("a,b,"), true));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "name the disk's file first"),
            (",read-only", "name the disk's file first"),
            ("x,readonly", "did you mean `read-only`?"),
            ("x,format=qcow2", "unknown disk option `format`"),
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
