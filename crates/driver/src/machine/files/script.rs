//! The guest's side of a copy: bash and coreutils, and tar for folders.
//!
//! Every script finds the port, opens it once as descriptor 3, and says a line there that begins with `R`; the host answers
//! `G`. So the host knows that the guest listens, and the guest that the host is there: a guest's write to a port waits
//! for the host, and its read does not. From then on the end of the file means that the host has given up, or said all.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::shell::quote;

/// The exit status of a script that found no port.
pub(super) const NO_PORT: i32 = 97;

/// What the guest lacks when it has a folder to copy and no tar.
const NEEDS_TAR: &str = "a folder is copied with tar, which this guest does not have";

/// A path as a word of bash, whatever its bytes are.
pub(super) fn word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) => quote(text),
        Err(_) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            format!("$'{escaped}'")
        }
    }
}

/// Opens the port that `find` finds, and greets with what `greeting` expands to.
fn open(find: &str, greeting: &str) -> String {
    format!(
        "{find}; [ -n \"$port\" ] || exit {NO_PORT}\n\
         {{ exec 3<>\"$port\"; }} || {{ echo \"$port cannot be opened: is another copy under way?\"; exit 1; }}\n\
         printf '%s\\n' \"{greeting}\" >&3 & greeter=$!\n\
         go=; tries=0; until IFS= read -r -N 1 -u 3 go; do tries=$((tries + 1))\n\
         if [ $tries -gt 100 ]; then kill -KILL $greeter || true; exit 98; fi; sleep 0.05; done\n\
         wait $greeter\n"
    )
}

/// Where something of the host goes to, as `cp -r` has it: into a folder that is there, or else to that very name.
/// Sets `t` to the target and `p` to its folder.
pub(super) fn place(target: &Path, name: &Path) -> String {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (target, name, parent) = (word(target), word(name), word(parent));
    format!(
        "t={target}; p={parent}; if [ -d \"$t\" ]; then p=$t; t=$t/{name}; else mkdir -p -- \"$p\"; fi\n\
         case $t in -*) t=./$t;; esac; case $p in -*) p=./$p;; esac\n"
    )
}

/// Where the bytes of a file go first. One that is there is written to, through links and into devices; else a file beside
/// it gets its name once it is whole. Sets `w`.
pub(super) const BESIDE: &str = "[ ! -d \"$t\" ] || { echo \"$t is a folder\"; exit 1; }\n\
     if [ -e \"$t\" ]; then w=$t; else w=$(mktemp -p \"$p\" .snowboot.XXXXXX); fi\n";

/// Gives the file at `w` its mode and name, unless that is what it has.
pub(super) fn settle(mode: u32) -> String {
    format!("if [ \"$w\" != \"$t\" ]; then chmod {mode:o} \"$w\"; mv -f -T -- \"$w\" \"$t\"; fi\n")
}

/// Takes a file of this size and mode. The host says `K` after the last byte.
pub(super) fn take_file(find: &str, target: &Path, name: &Path, size: u64, mode: u32) -> String {
    let (place, open, settle) = (place(target, name), open(find, "R"), settle(mode));
    format!(
        "{place}{BESIDE}if [ \"$w\" != \"$t\" ]; then trap 'rm -f -- \"$w\"' EXIT; fi\n{open}\
         head -c {size} <&3 >\"$w\"\n\
         IFS= read -r -N 1 -u 3 whole || exit 1\n[ \"$whole\" = K ]\n{settle}"
    )
}

/// Takes the archive of a folder of this mode.
pub(super) fn take_folder(find: &str, target: &Path, name: &Path, mode: u32) -> String {
    let (place, open, unpack) = (place(target, name), open(find, "R"), unpack(mode));
    format!("{NEED_TAR}{place}{open}{unpack} <&3\n", NEED_TAR = need_tar())
}

/// Unpacks an archive from the standard input into `t`.
pub(super) fn unpack(mode: u32) -> String {
    format!(
        "if [ ! -d \"$t\" ]; then mkdir -- \"$t\"; chmod {mode:o} \"$t\"; fi\n\
         tar -x -m -p -f - -C \"$t\""
    )
}

pub(super) fn need_tar() -> String {
    format!("command -v tar >/dev/null || {{ echo '{NEEDS_TAR}'; exit 1; }}\n")
}

/// Looks at what is to be copied to the host. Sets `s`, its kind `k` (`d` for a folder, `f` for anything else) and its
/// mode `m`.
pub(super) fn look(source: &Path) -> String {
    let source = word(source);
    let need_tar = need_tar();
    format!(
        "s={source}; case $s in -*) s=./$s;; esac\n\
         [ -e \"$s\" ] || {{ echo \"$s: no such file or folder\"; exit 1; }}\n\
         m=$(stat -L -c %a -- \"$s\"); k=f\n\
         if [ -d \"$s\" ]; then k=d; {need_tar}fi\n"
    )
}

/// Packs the folder `s`, links as links and each name of a file as a file. Status 1 means that something changed
/// meanwhile, which `cp` would not mind.
pub(super) const PACK: &str = "tar -c -b 64 --format=gnu --hard-dereference -f - -C \"$s\" .";

/// Gives a file or the archive of a folder, up to its end. Whatever the host says meanwhile, or its leaving, ends it.
pub(super) fn give(find: &str, source: &Path) -> String {
    let (look, open) = (look(source), open(find, "R $k $m"));
    format!(
        "{look}{open}\
         if [ $k = d ]; then {PACK} >&3 & else cat <\"$s\" >&3 & fi; work=$!\n\
         {{ IFS= read -r -N 1 -u 3 || true; kill -KILL $work; }} & watch=$!\n\
         status=0; wait $work || status=$?\n\
         kill -KILL $watch || true; wait $watch || true\n\
         [ $status = 0 ] || [ $k$status = d1 ]\n"
    )
}
