#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use culvert_net::memory_budget::MemoryBudget;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::server::serve_on;

/// A stream of a client of h2's, and the same stream as the server sees it.
async fn stream() -> (SendStream<Bytes>, RecvStream, ByteStream) {
    let (client, server) = duplex(1 << 16);
    let (accepted, accept) = oneshot::channel();
    let accepted = Rc::new(RefCell::new(Some(accepted)));
    spawn_local(async move {
        let memory = MemoryBudget::new(64 << 20, Arc::default());
        let handle = |connect: crate::server::Connect| {
            let stream = connect.accept(None).unwrap().into_byte_stream();
            assert!(accepted.borrow_mut().take().unwrap().send(stream).is_ok());
        };
        let _ = serve_on(server, Duration::from_secs(1), memory, pending(), handle).await;
    });
    let (mut requests, connection) = h2::client::handshake(client).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    let request =
        Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").version(Version::HTTP_2).body(()).unwrap();
    let (response, send) = requests.send_request(request, false).unwrap();
    let receive = response.await.unwrap().into_body();
    (send, receive, accept.await.unwrap())
}

async fn received(receive: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = receive.data().await {
        let chunk = chunk?;
        receive.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_on_its_own() {
    let echo = async {
        let (mut send, mut receive, mut stream) = stream().await;
        spawn_local(async move {
            let mut text = Vec::new();
            let mut short = [0; 3];
            // Buffers that are smaller than what was received, and larger than the stream's window.
            while let Ok(read @ 1..) = stream.read(&mut short).await {
                text.extend(short.iter().take(read));
            }
            text.resize(1 << 20, b'x');
            stream.write_all(&text).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        send.send_data("hello".into(), false).unwrap();
        send.send_data(" world".into(), true).unwrap();
        let answer = received(&mut receive).await.unwrap();
        assert_eq!(answer.len(), 1 << 20);
        assert!(answer.starts_with(b"hello worldxxx"));
    };
    LocalSet::new().run_until(echo).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_reset_and_a_reset_is_no_end() {
    let drops = async {
        let (_send, mut receive, mut dropped) = stream().await;
        dropped.write_all(b"part").await.unwrap();
        drop(dropped);
        assert!(received(&mut receive).await.is_err());

        let (mut send, _receive, mut read) = stream().await;
        send.send_data("part".into(), false).unwrap();
        let mut text = [0; 4];
        read.read_exact(&mut text).await.unwrap();
        send.send_reset(h2::Reason::INTERNAL_ERROR);
        assert_eq!(read.read(&mut text).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    };
    LocalSet::new().run_until(drops).await;
}

#[tokio::test]
async fn a_peer_that_stops_reading_breaks_the_pipe() {
    let stops = async {
        let (mut send, mut receive, mut writer) = stream().await;
        writer.write_all(b"some").await.unwrap();
        poll_fn(|context| receive.poll_data(context)).await.unwrap().unwrap();
        send.send_reset(h2::Reason::NO_ERROR);
        let error = loop {
            match writer.write(&[0; 1 << 16]).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    };
    LocalSet::new().run_until(stops).await;
}
