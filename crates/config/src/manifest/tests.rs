use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::{BootProfile, DiskEngine, MemorySize, ShareCache};

const GOOD: &str = r#"
name = "ping"
script = "ping.py"
[machines.b]
toplevel = "guests/b"
specialisation = "debug"
memory = "2G"
vcpus = 2
vlans = [1, 7]
[[machines.b.disks]]
path = "guests/b/root.erofs"
read-only = true
serial = "root"
[[machines.b.shares]]
tag = "shared"
path = "tmp"
writable = true
[machines.a]
kernel = "/boot/vmlinuz"
profile = "fast"
"#;

fn toml(text: &str) -> Result<Manifest, String> {
    Manifest::parse(Path::new("folder/test.toml"), text).map_err(|error| error.0)
}

fn json(text: &str) -> Result<Manifest, String> {
    Manifest::parse(Path::new("folder/test.json"), text).map_err(|error| error.0)
}

/// The error of a manifest with one machine whose table ends in `lines`, without the file's name.
fn node_error(lines: &str) -> String {
    let text = format!("name = 't'\ntest-script = ''\n[machines.m]\nkernel = 'k'\n{lines}");
    toml(&text).unwrap_err().trim_start_matches("folder/test.toml:").to_owned()
}

#[test]
fn a_test_may_have_a_seed() {
    assert_eq!(toml(GOOD).unwrap().seed, None);
    let found = toml(&format!("seed = 1850493118\n{GOOD}")).unwrap();
    assert_eq!(found.seed, Some(1_850_493_118));
    assert_eq!(json(&serde_json::to_string(&found).unwrap()).unwrap().seed, found.seed);
    for (seed, part) in [("-1", "choose 0 to 9223372036854775807"), ("'x'", "expected a whole number")] {
        let error = toml(&format!("seed = {seed}\n{GOOD}")).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_manifest_has_defaults_and_paths_from_its_folder() {
    let manifest = toml(GOOD).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.global_timeout), ("ping", 3600));
    assert_eq!(manifest.script, Script::File(PathBuf::from("folder/ping.py")));
    assert_eq!(manifest.machines.keys().collect::<Vec<_>>(), ["a", "b"]);
    let (a, b) = (&manifest.machines["a"], &manifest.machines["b"]);
    assert_eq!((a.memory.mib(), a.vcpus.get(), a.vlans.as_slice()), (1024, 1, &[1][..]));
    assert_eq!(a.kernel.as_deref(), Some(Path::new("/boot/vmlinuz")));
    assert_eq!((a.specialisation.as_deref(), b.specialisation.as_deref()), (None, Some("debug")));
    assert_eq!((a.profile, b.profile), (Some(BootProfile::Fast), None));
    assert_eq!((b.memory.mib(), b.vcpus.get(), b.vlans.as_slice()), (2048, 2, &[1, 7][..]));
    assert_eq!(b.disks[0].path.as_deref(), Some(Path::new("folder/guests/b/root.erofs")));
    let share = &b.shares[0];
    assert_eq!((share.tag.as_str(), share.path.as_path()), ("shared", Path::new("folder/tmp")));
    assert_eq!((share.writable, share.cache), (true, ShareCache::Always));
    assert!(b.disks[0].read_only && b.disks[0].create_mib.is_none());
}

#[test]
fn empty_disks_come_after_the_others_in_their_order() {
    let text = "name = 't'\ntest-script = ''\n[machines.m]\nkernel = 'k'\n\
                empty-disks = [512, { size-mib = 64, serial = 'log', memory = true }]\n\
                disks = [{ path = 'root.qcow2', format = 'qcow2', backing-file = 'base.img', engine = 'threads' }]\n";
    let manifest = toml(text).unwrap();
    let [root, first, second] = manifest.machines["m"].disks.as_slice() else { panic!("{manifest:?}") };
    assert_eq!(root.backing_file.as_deref(), Some(Path::new("folder/base.img")));
    assert_eq!(root.engine, Some(DiskEngine::Threads));
    assert_eq!(*first, DiskConfig::temporary(512));
    let serial = Some("log".to_owned());
    assert_eq!(*second, DiskConfig { serial, memory: true, ..DiskConfig::temporary(64) });
    let again = serde_json::to_string(&manifest).unwrap();
    assert_eq!(Manifest::parse(Path::new("x.json"), &again).unwrap(), manifest);
}

#[test]
fn json_says_the_same() {
    let manifest = toml(GOOD).unwrap();
    let text = r#"{"name": "ping", "script": "ping.py", "global-timeout": null, "machines": {
        "a": {"kernel": "/boot/vmlinuz", "profile": "fast"},
        "b": {"toplevel": "guests/b", "specialisation": "debug", "memory": 2048, "vcpus": 2, "vlans": [1, 7],
              "disks": [{"path": "guests/b/root.erofs", "read-only": true, "serial": "root"}],
              "shares": [{"tag": "shared", "path": "tmp", "writable": true}]}}}"#;
    assert_eq!(json(text).unwrap(), manifest);
}

#[test]
fn what_is_written_out_reads_back() {
    let manifest = toml(GOOD).unwrap();
    let text = serde_json::to_string(&manifest).unwrap();
    // The paths were joined already: from the root folder they stay as they are.
    let again = Manifest::parse(Path::new("x.json"), &text).unwrap();
    assert_eq!(again, manifest);
    let node = "pmem = [{ path = 'p' }]\nstore = { folder = 's', as = 'pmem' }\nvhost-user = [{ kind = 'fs', tag = 't', \
                socket = 'x' }, { kind = 'blk', socket = 'y' }]\nkernel = 'k'";
    let node = NodeConfig::parse("m", Path::new("/x.toml"), node).unwrap();
    let text = serde_json::to_string(&node).unwrap();
    assert_eq!(NodeConfig::parse("m", Path::new("/x.json"), &text).unwrap(), node);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
    assert_eq!(
        node_error("memroy = 1\n"),
        "5:1: unknown key `memroy` of machine `m`: did you mean `memory`?"
    );
    assert_eq!(node_error("cores = 1\n"), "5:1: unknown key `cores` of machine `m`: did you mean `vcpus`?");
    assert_eq!(
        node_error("zzzzzzzz = 1\n"),
        "5:1: unknown key `zzzzzzzz` of machine `m`: the keys here are number, toplevel, specialisation, kernel, initrd, cmdline, profile, memory, vcpus, vlans, disks, empty-disks, shares, pmem, store, user-network, vhost-user"
    );
    assert_eq!(
        toml("name = 't'\ntestScript = ''\n").unwrap_err(),
        "folder/test.toml:2:1: unknown key `testScript`: did you mean `test-script`?"
    );
    assert_eq!(
        json("{\"name\": \"t\",\n \"nodes\": {}}").unwrap_err(),
        "folder/test.json:2:2: unknown key `nodes`: did you mean `machines`?"
    );
}

#[test]
fn wrong_values_are_named_with_their_line() {
    for (lines, expected) in [
        ("memory = 1\n", "Memory of 1 MiB is out of range"),
        ("memory = '1 pound'\n", "`1 pound` is not a number of MiB"),
        ("memory = true\n", "expected a number of MiB or a text such as \"2G\", found a truth value"),
        ("vcpus = 33\n", "33 is out of range: choose 1 to 32"),
        ("vcpus = 1.5\n", "expected a whole number"),
        ("number = 0\n", "0 is out of range: choose 1 to 254"),
        ("number = 255\n", "255 is out of range: choose 1 to 254"),
        ("vlans = [256]\n", "VLAN 256 is out of range"),
        ("vlans = 1\n", "expected a list, found a number"),
        ("cmdline = \"a\\u0000b\"\n", "NUL"),
        ("profile = 'slow'\n", "`slow` is not a boot profile: choose one of plain, standard, fast"),
        ("profile = true\n", "expected a text"),
        ("initrd = ''\n", "expected a path"),
        ("specialisation = 'debug'\n", "only a `toplevel` has any"),
        ("disks = [{ serial = 'x' }]\n", "`path` of disk 1 of machine `m`: name the disk's image"),
        (
            "disks = [{ path = 'x', format = 'vmdk' }]\n",
            "`vmdk` is not an image format: choose one of raw, qcow2",
        ),
        ("disks = [{ path = 'x', memory = true }]\n", "`path` is a file"),
        ("disks = [{ path = 'x', backing = 'y' }]\n", "did you mean `backing-file`?"),
        ("empty-disks = [0]\n", "the size of empty disk 1 of machine `m` is out of range"),
        (
            "empty-disks = [1, { size = 1 }]\n",
            "unknown key `size` of empty disk 2 of machine `m`: did you mean `size-mib`?",
        ),
        ("empty-disks = [{ serial = 'x' }]\n", "`size-mib` is missing"),
        ("emptyDiskImages = [1]\n", "did you mean `empty-disks`?"),
        ("initrd = ['a', '']\n", "expected paths, found a text that is none"),
        ("initrd = ['a', 1]\n", "expected paths, found a number"),
        ("disks = [{ path = 'x', serial = '123456789012345678901' }]\n", "is not 1 to 20 printable"),
        ("disks = [{ path = 'x', read-only = true, create-mib = 1 }]\n", "keep one of the two"),
        ("shares = [{ path = 'x' }]\n", "share 1 of machine `m` has no `tag`"),
        ("shares = [{ tag = 'x' }]\n", "share 1 of machine `m` has no `path`"),
        ("shares = [{ tag = 'a b', path = 'x' }]\n", "without spaces"),
        ("shares = [{ tag = 'x', path = 'x', cache = 'loose' }]\n", "choose always, auto or never"),
        ("shares = [{ tag = 'x', path = 'x', ro = true }]\n", "unknown key `ro` of share 1"),
        ("shares = [{ tag = 'x', path = 'x' }, { tag = 'x', path = 'y' }]\n", "Two shares have the tag `x`"),
    ] {
        let error = node_error(lines);
        assert!(error.starts_with("5:") && error.contains(expected), "{lines}: {error}");
    }
}

#[test]
fn a_test_needs_a_name_a_script_and_machines() {
    for (text, expected) in [
        ("", "`name` is missing"),
        ("name = 'a'\n", "the test script is missing"),
        ("name = 'a'\nscript = 'x'\ntest-script = 'y'\n", "`script` is given too"),
        ("name = 'a'\nscript = 'x'\n", "`machines` is missing"),
        ("name = 'a'\nscript = 'x'\n[machines]\n", "at least one machine"),
        ("name = 'a'\nscript = 'x'\n[machines.a]\n", "machine `a` boots nothing"),
        ("name = 'a'\nscript = 'x'\n[machines.'a b']\nkernel = 'k'\n", "is not a host name"),
        ("name = 'a'\nscript = 'x'\nglobal-timeout = 0\n[machines.a]\nkernel='k'\n", "choose 1 to"),
        (
            "name = 'a'\nscript = 'x'\n[machines.a-b]\nkernel='k'\n[machines.a_b]\nkernel='k'\n",
            "would both be `a_b`",
        ),
        ("name = 'a'\nname = 'b'\n", "duplicate key"),
        ("name = \n", "1:"),
    ] {
        let error = toml(text).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    assert!(json("{").unwrap_err().starts_with("folder/test.json:1:"));
    assert!(
        json("{\"name\": \"a\", \"name\": \"b\"}")
            .unwrap_err()
            .contains("duplicate key `name`, first on line 1")
    );
}

#[test]
fn a_toplevel_excludes_a_kernel_and_an_initrd() {
    assert!(node_error("toplevel = 'x'\n").contains("`toplevel` has its own kernel"));
    let text = "name = 't'\nscript = 's'\n[machines.m]\ntoplevel = 'x'\ninitrd = 'y'\n";
    assert!(toml(text).unwrap_err().contains("`toplevel` has its own initrd"));
}

#[test]
fn an_initrd_is_one_path_or_a_list_of_them() {
    for (value, expected) in [("'a'", &["folder/a"][..]), ("['a', '/b']", &["folder/a", "/b"])] {
        let text = format!("name = 't'\nscript = 's'\n[machines.m]\nkernel = 'k'\ninitrd = {value}\n");
        let manifest = toml(&text).unwrap();
        let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(manifest.machines["m"].initrds, expected);
    }
}

#[test]
fn a_share_may_be_given_as_a_nixos_machine_has_it() {
    let text = "name = 't'\nscript = 's'\n[machines.m]\nkernel = 'k'\n\
        shares = [{ tag = 'xchg', path = '\"$TMPDIR\"/xchg' }, { tag = 'x', path = 'plain' }]\n";
    let manifest = toml(text).unwrap();
    let [xchg, plain] = &manifest.machines["m"].shares[..] else { panic!("there are two shares") };
    assert_eq!((xchg.path.as_path(), xchg.has_variables()), (Path::new("\"$TMPDIR\"/xchg"), true));
    assert_eq!((plain.path.as_path(), plain.has_variables()), (Path::new("folder/plain"), false));
}

#[test]
fn variables_are_named_as_the_nixos_driver_names_them() {
    assert_eq!(variable_name("server-allowed-users"), "server_allowed_users");
    assert_eq!(variable_name("9p"), "_p");
}

#[test]
fn a_machine_never_takes_the_place_of_what_scripts_need() {
    for (name, what) in [
        ("class", "a word of Python's own"),
        ("None", "a word of Python's own"),
        ("log", "a name that every script finds already"),
        ("start-all", "`start_all`, which is a name that every script finds already"),
        ("t", "a name that every script finds already"),
        ("Machine", "a name that every script finds already"),
    ] {
        let text = format!("name = 't'\nscript = 's'\n[machines.{name}]\nkernel = 'k'\n");
        let error = toml(&text).unwrap_err();
        assert!(error.starts_with(&format!("folder/test.toml:3:11: machine `{name}` would be")), "{error}");
        assert!(error.contains(what) && error.ends_with(": choose another name"), "{error}");
    }
    for name in ["machine", "match", "logs", "classy"] {
        let text = format!("name = 't'\nscript = 's'\n[machines.{name}]\nkernel = 'k'\n");
        assert!(toml(&text).is_ok(), "{name}");
    }
}

#[test]
fn memory_default_is_that_of_a_nixos_test_machine() {
    assert_eq!(MemorySize::default().mib(), 1024);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = toml(&text);
        let _ = json(&text);
    }

    #[test]
    fn no_damage_to_a_good_manifest_makes_the_reader_panic(at in 0..GOOD.len(), byte in 0_u8..128) {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        if let Err(error) = toml(&String::from_utf8(bytes).unwrap()) {
            prop_assert!(error.starts_with("folder/test.toml:"), "{}", error);
        }
    }
}

#[test]
fn a_machine_can_be_described_in_a_file_of_its_own() {
    let text = "kernel = 'vmlinux'\nmemory = 512\ndisks = [{ path = 'root.img' }]\n";
    let node = NodeConfig::parse("web", Path::new("/descriptions/web.toml"), text).unwrap();
    assert_eq!(node.kernel.as_deref(), Some(Path::new("/descriptions/vmlinux")));
    let machines = BTreeMap::from([("web".to_owned(), node)]);
    let script = Script::Text(String::new());
    let manifest = Manifest::of_machines("test", script.clone(), 60, machines).unwrap();
    assert_eq!(manifest.machines.len(), 1);
    assert!(Manifest::of_machines("test", script, 60, BTreeMap::new()).is_err());
}

#[test]
fn errors_of_a_single_machine_name_file_line_and_machine() {
    let wrong = |name: &str, text: &str| {
        NodeConfig::parse(name, Path::new("d/web.toml"), text).unwrap_err().to_string()
    };
    assert!(
        wrong("web", "kernel = 'k'\ncores = 2\n")
            .starts_with("d/web.toml:2:1: unknown key `cores` of machine `web`")
    );
    assert!(wrong("web", "memory = 512\n").contains("machine `web` boots nothing"));
    assert!(wrong("log", "kernel = 'k'\n").contains("every script finds already"));
}

#[test]
fn machines_that_would_be_one_variable_are_refused() {
    let node = || NodeConfig::parse("x", Path::new("x.toml"), "kernel = 'k'\n").unwrap();
    let machines = BTreeMap::from([("a-b".to_owned(), node()), ("a_b".to_owned(), node())]);
    let error = Manifest::of_machines("test", Script::Text(String::new()), 60, machines).unwrap_err();
    assert!(error.to_string().contains("would both be `a_b`"), "{error}");
}

fn numbers(text: &str) -> Result<Vec<(u8, String)>, String> {
    let manifest = toml(&format!("name = 't'\nscript = 's'\n{text}"))?;
    Ok(manifest.numbered().map(|(number, name, _)| (number, name.to_owned())).collect())
}

#[test]
fn machines_are_numbered_by_their_names_or_as_they_say() {
    let found = numbers("[machines.b]\nkernel = 'k'\n[machines.a]\nkernel = 'k'\n").unwrap();
    assert_eq!(found, [(1, "a".to_owned()), (2, "b".to_owned())]);
    let found = numbers("[machines.b]\nkernel = 'k'\nnumber = 1\n[machines.a]\nkernel = 'k'\nnumber = 254\n")
        .unwrap();
    assert_eq!(found, [(254, "a".to_owned()), (1, "b".to_owned())]);
}

#[test]
fn two_machines_never_have_one_number() {
    let text = "[machines.a]\nkernel = 'k'\nnumber = 2\n[machines.b]\nkernel = 'k'\n";
    let error = numbers(text).unwrap_err();
    assert!(
        error.starts_with("folder/test.toml:6:11: machines `a` and `b` would both have the number 2"),
        "{error}"
    );
    let node = |name: &str| {
        let node = NodeConfig::parse(name, Path::new("x.toml"), "kernel = 'k'\nnumber = 7\n").unwrap();
        (name.to_owned(), node)
    };
    let machines = BTreeMap::from([node("a"), node("b")]);
    let error = Manifest::of_machines("test", Script::Text(String::new()), 60, machines).unwrap_err();
    assert!(error.to_string().contains("the number 7"), "{error}");
}
