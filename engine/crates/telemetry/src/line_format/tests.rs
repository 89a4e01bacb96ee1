#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::UNIX_EPOCH;

use super::*;
use crate::flow::Security;

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn outbound() -> Flow {
    let mut flow = Flow::between(Direction::Outbound, socket("10.0.0.1:40000"), socket("10.96.0.9:80"));
    flow.extra_mut().original_destination = Some(socket("10.96.0.9:80"));
    flow.destination_address = socket("10.0.0.2:15008");
    flow.hbone_address = Some(socket("10.0.0.2:8080"));
    flow.security = Security::MutualTls;
    flow.source.identity = Some("spiffe://td/ns/a/sa/client".parse().unwrap());
    flow.destination.identity = Some("spiffe://td/ns/b/sa/server".parse().unwrap());
    flow
}

fn line(format: &LineFormat, flow: &Flow, end: &FlowEnd) -> String {
    let now = UNIX_EPOCH + Duration::from_millis(1_767_322_985_500);
    let ended = Ended {
        flow,
        end,
        duration: Duration::from_millis(500),
        transfer: Transfer { to_destination: 5, to_client: 7 },
        now,
    };
    String::from_utf8(format.line(&ended)).unwrap()
}

fn text(format: &str, flow: &Flow, end: &FlowEnd) -> String {
    line(&LineFormat::text(format).unwrap(), flow, end)
}

fn good() -> FlowEnd {
    FlowEnd { flag: ResponseFlag::None, error: None }
}

#[test]
fn a_connection_of_the_client() {
    let format = "[%START_TIME%] %DURATION% %BYTES_RECEIVED%/%BYTES_SENT% %RESPONSE_FLAGS% \
        %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %UPSTREAM_HOST% %DOWNSTREAM_PEER_URI_SAN% \
        %UPSTREAM_PEER_URI_SAN% %UPSTREAM_LOCAL_URI_SAN%";
    assert_eq!(
        text(format, &outbound(), &good()),
        "[2026-01-02T03:03:05.000Z] 500 5/7 - 10.0.0.1:40000 10.96.0.9:80 10.0.0.2:15008 - \
         spiffe://td/ns/b/sa/server spiffe://td/ns/a/sa/client\n"
    );
}

#[test]
fn a_connection_of_the_server() {
    let mut flow = Flow { direction: Direction::Inbound, ..outbound() };
    flow.extra = None;
    let format = "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT% %UPSTREAM_HOST% \
        %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_LOCAL_URI_SAN% %UPSTREAM_PEER_URI_SAN%\n";
    assert_eq!(
        text(format, &flow, &good()),
        "10.0.0.2 8080 10.0.0.2:8080 spiffe://td/ns/a/sa/client spiffe://td/ns/b/sa/server -\n"
    );
    let denied = FlowEnd::failed(ResponseFlag::Denied, "policy");
    assert_eq!(text("%UPSTREAM_HOST% %RESPONSE_FLAGS%", &flow, &denied), "- DENY\n");
}

#[test]
fn what_layer_4_cannot_know_is_a_dash_in_text_and_null_in_json() {
    assert_eq!(text("%REQ(:METHOD)% %PROTOCOL% %RESP(X-Y):3% 100%%", &outbound(), &good()), "- - - 100%\n");
    let format = LineFormat::json(r#"{"m":"%REQ(:METHOD)%","n":1,"t":"x %PROTOCOL%"}"#).unwrap();
    assert_eq!(line(&format, &outbound(), &good()), "{\"m\":null,\"n\":1,\"t\":\"x -\"}\n");
}

#[test]
fn json_values_of_one_operator_keep_their_type() {
    let format =
        r#"{"ms":"%DURATION%","bytes":["%BYTES_SENT%","%BYTES_SENT% B"],"peer":{"port":"%DOWNSTREAM_REMOTE_PORT%"}}"#;
    let parsed: Value = serde_json::from_str(&line(&LineFormat::json(format).unwrap(), &outbound(), &good())).unwrap();
    assert_eq!(parsed, serde_json::json!({"ms": 500, "bytes": [7, "7 B"], "peer": {"port": 40000}}));
}

#[test]
fn the_end_is_told_and_can_be_cut() {
    let end = FlowEnd::failed(ResponseFlag::Tls, "bad \u{e9}certificate\nforged line");
    let format = "%CONNECTION_TERMINATION_DETAILS:5%|%UPSTREAM_TRANSPORT_FAILURE_REASON%";
    assert_eq!(text(format, &outbound(), &end), "bad \u{e9}|bad \u{e9}certificate\\nforged line\n");
    let end = FlowEnd::failed(ResponseFlag::Connect, "refused");
    assert_eq!(text("%UPSTREAM_TRANSPORT_FAILURE_REASON%", &outbound(), &end), "-\n");
}

#[test]
fn a_refusal_outside_the_registry_has_no_upstream() {
    let end = FlowEnd::failed(ResponseFlag::NotInRegistry, "x");
    assert_eq!(text("%UPSTREAM_HOST% %RESPONSE_FLAGS%", &outbound(), &end), "- NOT_IN_REGISTRY\n");
}

#[test]
fn what_is_no_format_is_refused() {
    for format in ["%", "%START_TIME", "%start%", "%A B%", "%A(b%", "%A:%", "%A:x%", "%1%", "a%b", "%START_TIME(%Q)%"] {
        assert!(LineFormat::text(format).is_err(), "{format}");
    }
    for format in ["", "x", "[]", r#""%DURATION%""#, r#"{"a":"%"}"#, r#"{"a":["%x"]}"#] {
        assert!(LineFormat::json(format).is_err(), "{format}");
    }
}
