//! The `longhaul` binary: hidden verbs first, before anything costs memory, then the command line.

use std::ffi::OsString;
use std::io::Read as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("shim") => match args.next() {
            Some(dir) => longhaul_supervise::shim::main(std::path::Path::new(&dir)),
            None => ExitCode::from(125),
        },
        Some("shim-exec") => longhaul_supervise::exec_stage::main(args),
        Some("demo-agent") => demo_agent(args.next()),
        Some("serve-test") => {
            let data_dir = args.next().unwrap_or_default().into();
            ExitCode::from(longhaul::serve::run(longhaul::serve::Options {
                data_dir,
                listen: args.next().and_then(|s| s.into_string().ok()),
                token: None,
                log_json: false,
                live_max: None,
            }))
        }
        _ => ExitCode::from(125),
    }
}

fn demo_agent(variant: Option<OsString>) -> ExitCode {
    let variant = variant.and_then(|v| v.into_string().ok()).unwrap_or_default();
    let mut prompt = String::new();
    let _ = std::io::stdin().read_to_string(&mut prompt);
    let mut out = std::io::stdout().lock();
    let status = longhaul_harness::demo::agent::run(&variant, &prompt, &mut out, &mut std::thread::sleep);
    status.map_or(ExitCode::from(1), |status| ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
