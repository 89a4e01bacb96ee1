//! One thread with a single-threaded runtime, and the pods that it serves.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use culvert_core::names::TUNNEL_MARK;
use culvert_net::netns::Netns;
use culvert_net::socket::SocketFactory;
use culvert_runtime::CpuAffinity;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::command::{Command, Stopped};
use crate::drain::Phase;
use crate::host::{Host, WorkerSettings};
use crate::limits::PodInfo;
use crate::protocol::{Pod, Protocol, Worker};

/// Capacity of a worker's command queue: far more than changes of workloads during one command.
const COMMANDS: usize = 4096;

/// How often threads release what is idle.
const TICK: Duration = Duration::from_secs(5);

/// A thread, as the others see it.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Start a thread.
    pub(crate) fn start<P: Protocol>(
        number: usize,
        affinity: CpuAffinity,
        host: Arc<Host>,
        protocol: Arc<P>,
    ) -> io::Result<Self> {
        let home = Netns::current()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let run = move || {
            culvert_tls::gather_entropy();
            // A panic outside of a connection's task ends the worker: the host must exit instead of serving with the rest.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                culvert_runtime::block_on(
                    &runtime,
                    Some(affinity),
                    run(number, home, host.clone(), protocol, receiver),
                );
                drop(runtime);
            }));
            if ended.is_err() {
                host.events.fatal(format!("worker {number} panicked"));
            }
        };
        let thread = std::thread::Builder::new().name(format!("culvert-{number}")).spawn(run)?;
        Ok(Self { commands, thread })
    }

    /// Hand over a command; `false` when the queue is full or the worker has ended.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Stop the thread at once; open connections are cut. The handle can be joined.
    pub(crate) fn end(self) -> JoinHandle<()> {
        self.thread
    }
}

/// The pods that one thread serves.
struct Thread<W: Worker> {
    host: Arc<Host>,
    worker: W,
    pods: RefCell<HashMap<Arc<str>, Served<W::Pod>>>,
    /// Removed or replaced pods with open connections.
    leaving: RefCell<Vec<Rc<W::Pod>>>,
}

/// A pod, and the namespace that it is served in.
struct Served<P> {
    pod: Rc<P>,
    netns_inode: u64,
}

async fn run<P: Protocol>(
    number: usize,
    home: Netns,
    host: Arc<Host>,
    protocol: Arc<P>,
    mut commands: mpsc::Receiver<Command>,
) {
    let worker = protocol.begin(number, home);
    let thread = Rc::new(Thread { host, worker, pods: RefCell::default(), leaving: RefCell::default() });
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => break,
                Some(Command::Add { pod, netns, started }) => started.report(thread.add(pod, netns)),
                Some(Command::Remove { uid, stopped }) => thread.remove(&uid, stopped),
                Some(Command::Drain { timeout }) => thread.drain(timeout),
            },
            // A thread without pods does not tick.
            _ = tick.tick(), if thread.has_pods() => thread.tick(),
        }
    }
}

impl<W: Worker> Thread<W> {
    fn add(&self, info: Arc<PodInfo>, netns: OwnedFd) -> io::Result<()> {
        let sockets = SocketFactory::new(Netns::new(netns)?, TUNNEL_MARK, fastrand::u16(..));
        let (uid, netns_inode) = (info.uid.clone(), sockets.netns_inode());
        let known = self.pods.borrow().get(&uid).map(|served| (served.pod.clone(), served.netns_inode));
        if let Some((old, inode)) = known {
            if inode == netns_inode {
                return Ok(());
            }
            // The same pod in another namespace: its sandbox was recreated, and connections of the old one are dead.
            old.life().enter(Phase::Stopped);
        }
        let pod = self.worker.serve(info, sockets)?;
        self.pods.borrow_mut().insert(uid, Served { pod, netns_inode });
        Ok(())
    }

    fn remove(self: &Rc<Self>, uid: &str, stopped: Arc<Stopped>) {
        let Some(Served { pod, .. }) = self.pods.borrow_mut().remove(uid) else { return };
        let WorkerSettings { removal_accept, removal_drain, .. } = self.host.settings;
        self.leaving.borrow_mut().push(pod.clone());
        let thread = self.clone();
        culvert_runtime::spawn(async move {
            pod.life().enter(Phase::Leaving);
            tokio::time::sleep(removal_accept).await;
            pod.life().leave(removal_drain).await;
            thread.leaving.borrow_mut().retain(|other| !Rc::ptr_eq(other, &pod));
            drop(stopped);
        });
    }

    fn drain(&self, timeout: Duration) {
        for pod in self.all() {
            culvert_runtime::spawn(async move { pod.life().leave(timeout).await });
        }
    }

    fn has_pods(&self) -> bool {
        !self.pods.borrow().is_empty() || !self.leaving.borrow().is_empty()
    }

    fn tick(&self) {
        self.worker.tick();
        self.all().iter().for_each(|pod| pod.release_idle());
    }

    fn all(&self) -> Vec<Rc<W::Pod>> {
        let pods = self.pods.borrow();
        pods.values().map(|served| &served.pod).chain(&*self.leaving.borrow()).cloned().collect()
    }
}
