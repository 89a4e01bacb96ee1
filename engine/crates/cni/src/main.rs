//! The program; see the library.

use std::io::Read as _;
use std::process::ExitCode;

use culvert_cni::cni::Failure;
use culvert_cni::{agent, cni};

fn main() -> ExitCode {
    match run() {
        Ok(answer) => {
            if !answer.is_empty() {
                println!("{answer}");
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}", failure.to_json());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, Failure> {
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(cni::versions());
    }
    let mut input = Vec::new();
    std::io::stdin()
        .take(cni::MAX_INPUT)
        .read_to_end(&mut input)
        .map_err(|error| Failure::new(cni::IO_FAILURE, format!("cannot read the network configuration: {error}")))?;
    match command.as_str() {
        "ADD" => {
            let config = cni::Config::parse(&input)?;
            let request = cni::add_request(&config, |name| std::env::var(name).ok())?;
            if !request.is_exempt(&config) {
                agent::add(&config.agent_socket, &request)
                    .map_err(|error| Failure::new(cni::TRY_AGAIN, format!("{error}; {}", agent::ADVICE)))?;
            }
            Ok(config.previous_result())
        }
        // The node agent watches pods and takes its rules back itself; a pod that is gone took them with it.
        "DEL" | "CHECK" | "GC" | "STATUS" => Ok(String::new()),
        other => Err(Failure::new(cni::UNSUPPORTED, format!("CNI_COMMAND {other:?} is not known"))),
    }
}
