//! A client's bytes inside TLS: HTTP/2 frames of any kind, after a good preface.

#![no_main]

use std::sync::Arc;
use std::time::Duration;

use culvert_hbone::authority::destination;
use culvert_hbone::headers::{Baggage, Trace, forwarded_host};
use culvert_hbone::server::{Connect, serve_on};
use culvert_net::memory_budget::MemoryBudget;
use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn handle(connect: Connect) {
    let headers = &connect.request.headers;
    let _ = (Baggage::parse(headers), forwarded_host(headers), Trace::parse(headers));
    match destination(connect.request.uri.authority()) {
        Ok(_) => drop(connect.accept(Baggage::default().encode())),
        Err(_) => connect.refuse(StatusCode::BAD_REQUEST),
    }
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let client = async {
            let _ = client.write_all(PREFACE).await;
            let _ = client.write_all(data).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
        };
        let room = MemoryBudget::new(64 << 20, Arc::default());
        let serving = serve_on(server, Duration::from_secs(1), room, std::future::pending(), handle);
        // A client that has hung up is served no longer: an end that does not come is a hang, and found by the fuzzer.
        let (ended, ()) = tokio::join!(serving, client);
        drop(ended);
    });
});
