//! What another protocol needs to be served: here, one that sends each client its pod's name.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{fs::File, io};

use culvert_core::proto::engine::{event::Kind, workload_ref::Mode};
use culvert_net::{netns::Netns, socket::SocketFactory};
use culvert_worker::{
    Host, LimitSettings, Limits, Phase, Pod, PodInfo, PodLife, Protocol, Worker, WorkerPool, WorkerSettings,
};
use tokio::io::AsyncWriteExt;

const PORT: u16 = 15_990;

struct Greeter(Arc<Host>);
struct GreeterWorker(Arc<Host>, Netns);
struct GreeterPod(Rc<PodLife>);

impl Protocol for Greeter {
    type Worker = GreeterWorker;
    fn begin(self: Arc<Self>, _: usize, home: Netns) -> GreeterWorker {
        GreeterWorker(self.0.clone(), home)
    }
}

impl Worker for GreeterWorker {
    type Pod = GreeterPod;
    fn serve(&self, pod: Arc<PodInfo>, sockets: SocketFactory) -> io::Result<Rc<GreeterPod>> {
        let (life, listener) = (PodLife::new(self.0.held.clone()), sockets.listen(&self.1, PORT)?);
        let (open, of_task) = (life.listener(), life.clone());
        life.spawn_detached(async move {
            let _open = open;
            let greet = async {
                while let Ok((mut client, _)) = listener.accept().await {
                    let _ = client.write_all(pod.name.as_bytes()).await;
                }
            };
            tokio::select! { () = greet => {}, () = of_task.reached(Phase::Draining) => {} }
        });
        Ok(Rc::new(GreeterPod(life)))
    }
}

impl Pod for GreeterPod {
    fn life(&self) -> &PodLife {
        &self.0
    }
}

fn info() -> Arc<PodInfo> {
    let limits = LimitSettings { max_connections: 1, max_handshakes: 1, max_buffered_bytes: 1 << 20, max_bandwidth: 0 };
    Arc::new(PodInfo {
        mode: Mode::Captured,
        uid: "uid".into(),
        name: "web-0".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        limits: Limits::new(limits, &Arc::default()),
    })
}

fn next_event(host: &Host) -> Kind {
    loop {
        if let Some(event) = host.events.drain().into_iter().next() {
            return event.kind.unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_pod_is_served_drained_and_released() {
    let settings = WorkerSettings {
        workers_per_group: 2,
        worker_groups: 1,
        reserved_cpus: 0,
        removal_accept: Duration::ZERO,
        removal_drain: Duration::from_secs(5),
    };
    let host = Host::new(settings).unwrap();
    let mut pool = WorkerPool::start(host.clone(), Arc::new(Greeter(host.clone()))).unwrap();
    pool.add(&info(), File::open("/proc/self/ns/net").unwrap().as_fd()).unwrap();
    assert!(matches!(next_event(&host), Kind::WorkloadStarted(started) if started.error.is_empty()));
    assert_eq!(host.held.count(), 2, "a listener on each thread");
    let client = std::net::TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    assert_eq!(io::read_to_string(client).unwrap(), "web-0");
    pool.remove(&"uid".into()).unwrap();
    assert!(matches!(next_event(&host), Kind::WorkloadStopped(_)));
    assert_eq!(host.held.count(), 0);
    pool.close();
}
