//! The CNI plugin's input: the network configuration that the runtime writes, and its arguments.
//!
//! Input: the arguments up to the first line end, then the configuration.

#![no_main]

use culvert_cni::cni::{Config, add_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (arguments, rest) = data.split_at(cut);
    let arguments = String::from_utf8_lossy(arguments).into_owned();
    let Ok(config) = Config::parse(rest.get(1..).unwrap_or_default()) else { return };
    let environment = |name: &str| match name {
        "CNI_NETNS" => Some("/run/netns/x".to_owned()),
        "CNI_ARGS" => Some(arguments.clone()),
        _ => None,
    };
    match add_request(&config, environment) {
        // Only pods of the agent's own namespace may start without it.
        Ok(request) if request.is_exempt(&config) => assert!(arguments.contains("K8S_POD_NAMESPACE=")),
        Ok(_) => {}
        Err(failure) => assert!(failure.to_json().starts_with('{')),
    }
    assert!(config.previous_result().starts_with(|first: char| "{[\"0123456789-tfn".contains(first)));
});
