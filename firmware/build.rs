//! Links the payload for no operating system: no C runtime, at the addresses of `layout.ld`.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=layout.ld");
    println!("cargo:rerun-if-changed=src/start.s");
    let script = format!("-T{folder}/layout.ld");
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,norelro", &script]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
