//! The node agent's side: one HTTP/1.1 request over a Unix socket.
//!
//! Written out by hand: the request is fixed, the answer is a status and a sentence, and a plugin that every pod start
//! waits for should be small.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::cni::AddRequest;

/// Said with every failure.
pub const ADVICE: &str = "the pod starts when the Culvert node agent runs on this node and captures it";

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: u64 = 64 * 1024;

/// Request capture of a pod from the node agent; returns when it is captured, or is none of the mesh's.
///
/// # Errors
/// The agent is not there, or refuses.
pub fn add(socket: &str, request: &AddRequest) -> Result<(), String> {
    let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    let answer = post(socket, &body).map_err(|error| format!("node agent at {socket}: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        Some(status) => Err(format!("node agent refused ({status}): {}", text.trim())),
        None => Err("node agent gave no answer".to_owned()),
    }
}

fn post(socket: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = format!(
        "POST /cmdadd HTTP/1.1\r\nHost: node-agent\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    // At once: an agent that answers before it has read all would break the pipe of a second write.
    request.extend_from_slice(body);
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::cni::{Config, add_request};

    fn request() -> AddRequest {
        let config = Config::parse(br#"{"agent_socket":"/s"}"#).unwrap();
        add_request(&config, |name| {
            Some(if name == "CNI_ARGS" { "K8S_POD_NAME=a;K8S_POD_NAMESPACE=b" } else { "/n" }.to_owned())
        })
        .unwrap()
    }

    fn answering(name: &str, answer: &'static str) -> String {
        let path = std::env::temp_dir().join(format!("culvert-cni-{}-{name}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        path.to_string_lossy().into_owned()
    }

    #[test]
    fn success_and_refusal_are_told_apart() {
        assert_eq!(add(&answering("ok", "HTTP/1.1 200 OK\r\n\r\n"), &request()), Ok(()));
        let refused = add(&answering("no", "HTTP/1.1 500 Error\r\n\r\nno ztunnel\n"), &request()).unwrap_err();
        assert_eq!(refused, "node agent refused (500): no ztunnel");
        assert!(add(&answering("cut", ""), &request()).is_err());
    }

    #[test]
    fn an_absent_agent_is_an_error() {
        let error = add("/nonexistent/agent.sock", &request()).unwrap_err();
        assert!(error.contains("/nonexistent/agent.sock"), "{error}");
    }
}
