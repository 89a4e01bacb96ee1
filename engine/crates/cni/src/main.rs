//! A chained CNI plugin that does one thing: ask the node agent to capture a pod before its containers start.
//!
//! It fails closed. Where the node agent cannot be reached or refuses, the sandbox does not start and the kubelet
//! tries again: a pod of the mesh never runs uncaptured. Whether a pod belongs to the mesh is the node agent's to say;
//! the plugin asks nobody else, so it needs neither credentials nor the Kubernetes API.
//!
//! Contract: CNI specification 0.3.1 to 1.1.0, <https://www.cni.dev/docs/spec/>; the request is that of Istio's plugin
//! (`POST /cmdadd` on a Unix socket).

mod agent;
mod cni;

use std::io::Read as _;
use std::process::ExitCode;

use cni::Failure;

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
