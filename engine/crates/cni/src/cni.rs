//! The CNI side: what the runtime says, and what it wants to hear.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A configuration is some kilobytes; more is no configuration.
pub const MAX_INPUT: u64 = 1024 * 1024;

/// Error code of the CNI specification: a field or command that is not supported.
pub const UNSUPPORTED: u32 = 4;
/// Error code: input could not be read.
pub const IO_FAILURE: u32 = 5;
/// Error code: input could not be decoded.
pub const UNDECODABLE: u32 = 6;
/// Error code: the configuration or environment is wrong.
pub const INVALID: u32 = 7;
/// Error code: later it may work.
pub const TRY_AGAIN: u32 = 11;

const NEWEST: &str = "1.1.0";

/// An answer other than success.
#[derive(Debug)]
pub struct Failure {
    code: u32,
    message: String,
}

impl Failure {
    /// A failure with one of the codes above.
    #[must_use]
    pub const fn new(code: u32, message: String) -> Self {
        Self { code, message }
    }

    /// The form that a runtime expects.
    #[must_use]
    pub fn to_json(&self) -> String {
        json!({"cniVersion": NEWEST, "code": self.code, "msg": format!("culvert-cni: {}", self.message)}).to_string()
    }
}

/// The answer to VERSION.
#[must_use]
pub fn versions() -> String {
    json!({"cniVersion": NEWEST, "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST]}).to_string()
}

/// The plugin's part of the node's configuration.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
    /// The node agent's socket on the host.
    pub agent_socket: String,
    /// Namespace of the node agent.
    #[serde(default)]
    agent_namespace: String,
    /// Prefixes of the names of pods there that never wait for the node agent: it, and what it needs to be ready.
    #[serde(default)]
    exempt_pod_prefixes: Vec<String>,
}

impl Config {
    /// Read the configuration that the runtime writes.
    ///
    /// # Errors
    /// It is no JSON, or a field is missing.
    pub fn parse(input: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(input)
            .map_err(|error| Failure::new(UNDECODABLE, format!("network configuration: {error}")))
    }

    /// A chained plugin returns the result of the previous one.
    #[must_use]
    pub fn previous_result(&self) -> String {
        let result = self.previous.clone().unwrap_or_else(|| json!({"cniVersion": self.version}));
        result.to_string()
    }
}

/// The request to the node agent.
#[derive(Debug, Serialize)]
pub struct AddRequest {
    #[serde(rename = "Netns")]
    netns: String,
    #[serde(rename = "PodName")]
    pod_name: String,
    #[serde(rename = "PodNamespace")]
    pod_namespace: String,
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "IPs")]
    ips: Vec<Value>,
}

impl AddRequest {
    /// Whether the pod is part of the mesh's own machinery: waiting for itself, it would never start after a reboot.
    #[must_use]
    pub fn is_exempt(&self, config: &Config) -> bool {
        self.pod_namespace == config.agent_namespace
            && config.exempt_pod_prefixes.iter().any(|prefix| self.pod_name.starts_with(prefix))
    }
}

/// Build the request from the runtime's environment.
///
/// # Errors
/// The runtime left something out.
pub fn add_request(config: &Config, environment: impl Fn(&str) -> Option<String>) -> Result<AddRequest, Failure> {
    let missing = |name: &str| Failure::new(INVALID, format!("the runtime did not set {name}"));
    let netns = environment("CNI_NETNS").filter(|path| !path.is_empty()).ok_or_else(|| missing("CNI_NETNS"))?;
    let arguments = environment("CNI_ARGS").unwrap_or_default();
    let argument = |key: &str| {
        let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next()
    };
    let required = |key: &str| argument(key).ok_or_else(|| missing(&format!("{key} in CNI_ARGS")));
    let addresses = config.previous.as_ref().and_then(|result| result.get("ips")).and_then(Value::as_array);
    let ips = addresses.into_iter().flatten().map(
        |ip| json!({"Interface": ip.get("interface"), "Address": ip.get("address"), "Gateway": ip.get("gateway")}),
    );
    Ok(AddRequest {
        netns,
        pod_name: required("K8S_POD_NAME")?,
        pod_namespace: required("K8S_POD_NAMESPACE")?,
        pod_uid: argument("K8S_POD_UID").unwrap_or_default(),
        ips: ips.collect(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is a failed test")]
    use super::*;

    const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"n","type":"culvert-cni","agent_socket":"/s","agent_namespace":"istio-system",
        "exempt_pod_prefixes":["istio-cni-node-","ztunnel-"],"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24","interface":1}]}}"#;

    fn environment(arguments: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| match name {
            "CNI_NETNS" => Some("/run/netns/x".to_owned()),
            "CNI_ARGS" => Some(arguments.to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_pod_is_described_and_the_result_handed_on() {
        let config = Config::parse(CONFIG.as_bytes()).unwrap();
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u";
        let request = add_request(&config, environment(arguments)).unwrap();
        let sent: Value = serde_json::to_value(&request).unwrap();
        assert_eq!(sent["PodName"], "web-1");
        assert_eq!(sent["PodNamespace"], "shop");
        assert_eq!(sent["PodUID"], "u");
        assert_eq!(sent["IPs"][0]["Address"], "10.0.0.2/24");
        assert!(config.previous_result().contains("10.0.0.2/24"));
    }

    #[test]
    fn the_meshs_own_machinery_starts_without_being_asked_for() {
        let config = Config::parse(CONFIG.as_bytes()).unwrap();
        let own = "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=istio-cni-node-abc";
        let other = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=istio-cni-node-abc";
        assert!(add_request(&config, environment(own)).unwrap().is_exempt(&config));
        assert!(!add_request(&config, environment(other)).unwrap().is_exempt(&config));
    }

    #[test]
    fn what_the_runtime_leaves_out_is_named() {
        let config = Config::parse(CONFIG.as_bytes()).unwrap();
        let failure = add_request(&config, environment("K8S_POD_NAME=a")).unwrap_err();
        assert!(failure.to_json().contains("K8S_POD_NAMESPACE"), "{failure:?}");
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_refused() {
        assert!(Config::parse(b"{").unwrap_err().to_json().contains(r#""code":6"#));
        assert!(Config::parse(b"{}").unwrap_err().to_json().contains("agent_socket"));
    }
}
