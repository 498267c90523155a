//! The shim by itself, for this crate's tests: the product enters it through `yunfan shim`.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    yunfan_runtime::shim::main(&args)
}
