//! The guest that is measured when no initrd is named: an archive of one program, which says that it runs and waits.

use std::io::Cursor;

use anyhow::{Context, Result};
use cpio::newc::Builder;

/// The line that the program writes.
pub(super) const MARKER: &str = "snowboot-bench: this is init";

/// `_start` of a static x86-64 Linux program that writes the bytes which follow this code, and then waits for ever.
///
/// ```text
///  0: b8 01 00 00 00         mov  eax, 1          ; write
///  5: bf 01 00 00 00         mov  edi, 1          ; to init's standard output: the console
/// 10: 48 8d 35 10 00 00 00   lea  rsi, [rip+16]   ; the bytes at 33
/// 17: ba LL LL LL LL         mov  edx, LENGTH
/// 22: 0f 05                  syscall
/// 24: b8 22 00 00 00         mov  eax, 34         ; pause
/// 29: 0f 05                  syscall
/// 31: eb f7                  jmp  24
/// ```
const BEFORE_LENGTH: [u8; 18] = [
    0xb8, 0x01, 0x00, 0x00, 0x00, 0xbf, 0x01, 0x00, 0x00, 0x00, 0x48, 0x8d, 0x35, 0x10, 0x00, 0x00, 0x00,
    0xba,
];
const AFTER_LENGTH: [u8; 11] = [0x0f, 0x05, 0xb8, 0x22, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xeb, 0xf7];

/// Where the program is in its memory.
const ADDRESS: u64 = 0x40_0000;
/// The ELF header of 64 bytes and one program header of 56; the code follows.
const HEADERS: u16 = 120;

/// The archive, in the form that Linux unpacks (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst).
pub(super) fn archive() -> Result<Vec<u8>> {
    const FOLDER: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const CONSOLE: u32 = 0o020_600;
    let entries = [
        (Builder::new("dev").mode(FOLDER), Cursor::new(Vec::new())),
        // Linux opens it for init before anything is mounted; not every kernel brings its own.
        (Builder::new("dev/console").mode(CONSOLE).rdev_major(5).rdev_minor(1), Cursor::new(Vec::new())),
        (Builder::new("init").mode(PROGRAM), Cursor::new(program(&format!("{MARKER}\n"))?)),
    ];
    cpio::write_cpio(entries.into_iter(), Vec::new()).context("Cannot make the initrd")
}

/// An ELF program of one segment (ELF-64 Object File Format, and the x86-64 psABI).
fn program(line: &str) -> Result<Vec<u8>> {
    let length = u32::try_from(line.len()).context("The marker is too long")?;
    let mut code = BEFORE_LENGTH.to_vec();
    code.extend(length.to_le_bytes());
    code.extend(AFTER_LENGTH);
    code.extend(line.as_bytes());

    let size = u64::from(HEADERS).saturating_add(u64::try_from(code.len())?);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| file.extend(bytes);
    put(&2u16.to_le_bytes()); // ET_EXEC
    put(&62u16.to_le_bytes()); // EM_X86_64
    put(&1u32.to_le_bytes()); // EV_CURRENT
    put(&(ADDRESS + u64::from(HEADERS)).to_le_bytes()); // entry
    put(&64u64.to_le_bytes()); // the program header's place
    put(&0u64.to_le_bytes()); // no section headers
    put(&0u32.to_le_bytes()); // flags
    for half in [64u16, 56, 1, 0, 0, 0] {
        put(&half.to_le_bytes()); // sizes and counts: this header, program headers, section headers
    }
    put(&1u32.to_le_bytes()); // PT_LOAD
    put(&5u32.to_le_bytes()); // readable and executable
    for word in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        put(&word.to_le_bytes()); // place in the file, addresses, sizes, alignment
    }
    put(&code);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_program_says_its_line_and_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("init");
        fs::write(&path, program("it runs\n").unwrap()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "it runs\n");
        assert_eq!(child.try_wait().unwrap(), None, "it waits");
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }

    #[test]
    fn the_archive_has_a_console_and_the_program() {
        let archive = archive().unwrap();
        let mut reader = cpio::NewcReader::new(archive.as_slice()).unwrap();
        let mut found = Vec::new();
        while !reader.entry().is_trailer() {
            let entry = reader.entry();
            found.push((entry.name().to_owned(), entry.mode(), entry.rdev_major(), entry.rdev_minor()));
            reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
        }
        assert_eq!(
            found,
            [
                ("dev".to_owned(), 0o040_755, 0, 0),
                ("dev/console".to_owned(), 0o020_600, 5, 1),
                ("init".to_owned(), 0o100_755, 0, 0)
            ]
        );
    }
}
