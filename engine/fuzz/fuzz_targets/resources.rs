//! Workloads, services, policies and settings as the control plane sends them: serialized messages of any content.
//!
//! First byte: `0x80` for the mesh configuration, else even for an address, odd for a policy.

#![no_main]

use std::cell::RefCell;

use culvert_core::names;
use culvert_core::proto::engine::{AccessLog, EngineConfig};
use culvert_core::proto::mesh::MeshConfig;
use culvert_core::proto::security::Authorization;
use culvert_core::proto::workload::{Address, address::Type};
use culvert_l4::{Config, Engine, EngineError, AuthzQuery, Section, Upsert};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// Names that cannot be said again (a service whose namespace has a slash) stay; a fresh engine is small again.
const MOST_LEFT: usize = 1 << 16;

fn start() -> Engine {
    let config = EngineConfig { worker_threads: 1, access_log: AccessLog::Mesh.into(), ..Default::default() };
    Engine::start(Config::from(config)).expect("starts")
}

/// Type URL and, where the message can be read, what the control plane would call the resource.
fn describe(choice: u8, message: &[u8]) -> (&'static str, Option<String>) {
    if choice == 0x80 {
        return (names::MESH_CONFIG_TYPE, MeshConfig::decode(message).ok().map(|_| "mesh".to_owned()));
    }
    if choice % 2 == 1 {
        let name = Authorization::decode(message).ok().map(|policy| format!("{}/{}", policy.namespace, policy.name));
        return (names::AUTHORIZATION_TYPE, name);
    }
    let name = Address::decode(message).ok().and_then(|address| address.r#type).map(|found| match found {
        Type::Workload(workload) => workload.uid,
        Type::Service(service) => format!("{}/{}", service.namespace, service.hostname),
    });
    (names::ADDRESS_TYPE, name)
}

thread_local! {
    static ENGINE: RefCell<Engine> = RefCell::new(start());
}

fn run(engine: &Engine, choice: u8, message: &[u8]) {
    let (kind, name) = describe(choice, message);
    let upsert = Upsert { name: "fuzz".to_owned(), value: message.to_vec() };
    match engine.apply(kind, vec![upsert], &[]) {
        Ok(_) => assert!(name.is_some()),
        Err(EngineError::ConfigRejected { rejected, .. }) => assert_eq!(rejected.len(), 1),
        Err(other) => panic!("{other}"),
    }
    // What was applied can be shown, looked up and removed.
    let name = name.unwrap_or_default();
    let question = AuthzQuery {
        workload: &name,
        peer: Some("spiffe://cluster.local/ns/shop/sa/web"),
        source: [10, 0, 0, 1].into(),
        destination: ([10, 0, 0, 2], 80).into(),
    };
    let _ = engine.authorize(question);
    let shown = [Section::Workloads, Section::Services, Section::Policies].map(|section| engine.dump(section));
    assert!(shown.iter().all(|text| text.starts_with('[')));
    engine.apply(kind, vec![], &[name]).expect("a removal is never refused");
    let _ = engine.events();
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, message)) = data.split_first() else { return };
    ENGINE.with_borrow_mut(|engine| {
        run(engine, choice, message);
        if engine.dump(Section::Services).len() > MOST_LEFT {
            *engine = start();
        }
    });
});
