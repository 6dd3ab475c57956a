//! The sample server by itself: `cargo run -p holdfast-drill --example sample_server -- --http 127.0.0.1:3001`.

use std::process::ExitCode;

use holdfast_drill::sample::{Options, USAGE, run};

fn main() -> ExitCode {
    let options = match Options::from_args(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => return complain(&format!("{error}\n\n{USAGE}")),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("no runtime: {error}")),
    };
    let served = runtime.block_on(run(options));
    // A read of standard input cannot be cancelled, and would keep the process.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

fn complain(message: &str) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::FAILURE
}
