//! Guests of a few instructions, as ELF kernels that start in 64-bit mode.

use std::fs;

use tempfile::TempDir;

/// Where the code is loaded.
const ADDRESS: u64 = 0x20_0000;
/// `mov al, 0x34; mov dx, 0x600; out dx, al; jmp .`: sleep type 5 and sleep enable, to the sleep control register.
const POWER_OFF: &[u8] = &[0xb0, 0x34, 0x66, 0xba, 0x00, 0x06, 0xee, 0xeb, 0xfe];
/// `mov al, 1; mov dx, 0x602; out dx, al; jmp .`: the ACPI reset register.
const RESET: &[u8] = &[0xb0, 0x01, 0x66, 0xba, 0x02, 0x06, 0xee, 0xeb, 0xfe];
/// `mov al, 0xfe; out 0x64, al; jmp .`: the keyboard controller's reset line.
const KEYBOARD_RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];
/// `ud2` without an interrupt table.
const TRIPLE_FAULT: &[u8] = &[0x0f, 0x0b];
/// `mov eax, 0xd0000000; jmp rax`: code where there is no memory, which KVM does not emulate.
const FAULT: &[u8] = &[0xb8, 0x00, 0x00, 0x00, 0xd0, 0xff, 0xe0];
/// `hlt; jmp -3`.
const FOREVER: &[u8] = &[0xf4, 0xeb, 0xfd];
/// `mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp -3`.
const FLOOD: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd];
/// Waits for a byte (bit 0 of the line status register), sends it back, and goes on unless it is a `q`:
/// `mov dx, 0x3fd; in al, dx; test al, 1; jz -5; mov dx, 0x3f8; in al, dx; out dx, al; cmp al, 'q'; jne -21`.
const ECHO: &[u8] = &[
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c, b'q',
    0x75, 0xed,
];

/// A folder with one file for each guest.
pub(crate) fn guests() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, code) in [
        ("off", [print("hello\r\n"), POWER_OFF.to_vec()].concat()),
        ("reset", RESET.to_vec()),
        ("keyboard-reset", KEYBOARD_RESET.to_vec()),
        ("triple-fault", TRIPLE_FAULT.to_vec()),
        ("fault", FAULT.to_vec()),
        ("forever", [print("up\r\n"), FOREVER.to_vec()].concat()),
        ("flood", FLOOD.to_vec()),
        ("marks", [marks(&[1, 200, 4, 2, 1, 16]), print("x\n"), POWER_OFF.to_vec()].concat()),
        ("echo", [print("> "), ECHO.to_vec(), POWER_OFF.to_vec()].concat()),
    ] {
        fs::write(folder.path().join(name), elf(&code)).unwrap();
    }
    folder
}

/// `mov dx, 0x3f8`, and for each byte `mov al, byte; out dx, al`.
fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03];
    code.extend(text.bytes().flat_map(|byte| [0xb0, byte, 0xee]));
    code
}

/// Says how far it has come: `mov dx, 0x610`, and for each mark `mov al, mark; out dx, al`. Waits where nothing is read from
/// there but ones: `in al, dx; inc al; jnz .`.
fn marks(marks: &[u8]) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0x10, 0x06];
    code.extend(marks.iter().flat_map(|mark| [0xb0, *mark, 0xee]));
    code.extend([0xec, 0xfe, 0xc0, 0x75, 0xfe]);
    code
}

/// An executable of one segment that is entered at its beginning.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    let length = u64::try_from(code.len()).unwrap().to_le_bytes();
    let mut file = vec![0; 120];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16] = 2; // ET_EXEC
    file[18] = 62; // EM_X86_64
    file[20] = 1;
    file[24..32].copy_from_slice(&ADDRESS.to_le_bytes());
    file[32] = 64; // the program header follows this header
    file[52] = 64;
    file[54] = 56;
    file[56] = 1;
    file[64] = 1; // PT_LOAD
    file[72] = 120;
    file[88..96].copy_from_slice(&ADDRESS.to_le_bytes());
    file[96..104].copy_from_slice(&length);
    file[104..112].copy_from_slice(&length);
    file.extend(code);
    file
}

/// The header of a bzImage that announces `length` bytes of kernel, and as many zeroes.
pub(crate) fn bzimage(length: u32) -> Vec<u8> {
    let mut file = vec![0; 1024 + usize::try_from(length).unwrap()];
    file[0x1f1] = 1;
    file[0x1f4..0x1f8].copy_from_slice(&(length / 16).to_le_bytes());
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    file
}
