#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use crate::Untrusted;
use crate::peer::AcceptedPeer;
use crate::testing::{Authority, DATABASE, Met, WEB, is_pending, meet};

/// Certificates of one identity, as one follows the other on a node.
struct Identity {
    uri: &'static str,
    rotation: RotationChannel,
}

impl Identity {
    fn new(uri: &'static str) -> Self {
        Self { uri, rotation: RotationChannel::default() }
    }

    /// Take a certificate of `authority`, and trust `bundle` from now on.
    fn takes(&self, authority: &Authority, bundle: &Arc<TrustBundle>) -> crate::WorkloadCertificate {
        let mut made = authority.certificate_trusting(self.uri, bundle);
        made.subscribe_to(&self.rotation);
        made.publish();
        made
    }
}

fn bundle(authorities: &[&Authority]) -> Arc<TrustBundle> {
    let roots: Vec<u8> = authorities.iter().flat_map(|authority| authority.roots()).copied().collect();
    Arc::new(TrustBundle::from_pem(&roots).unwrap())
}

fn is_trusted(peer: &AcceptedPeer) -> bool {
    is_pending(std::pin::pin!(peer.untrusted()))
}

/// How a server sees its client, and a client its server, after a handshake of two of `authority`.
fn accepted(
    web: &Identity,
    database: &Identity,
    authority: &Authority,
    bundle: &Arc<TrustBundle>,
) -> [AcceptedPeer; 2] {
    let (client, server) = (web.takes(authority, bundle), database.takes(authority, bundle));
    let met: Met = meet(&client, &server, DATABASE).unwrap();
    [server.accepted_client(met.server.peer_certificates()), client.accepted_server(met.client.peer_certificates())]
}

#[tokio::test]
async fn a_root_that_is_taken_out_ends_what_stands_on_it_and_one_that_is_added_nothing() {
    let (old, new) = (Authority::named("root"), Authority::named("root"));
    let (web, database) = (Identity::new(WEB), Identity::new(DATABASE));
    let below = old.below("below", 2);
    let peers = accepted(&web, &database, &below, &bundle(&[&old]));
    let take = |authority: &Authority, roots: &[&Authority]| {
        let roots = bundle(roots);
        web.takes(authority, &roots);
        database.takes(authority, &roots);
    };
    assert!(peers.iter().all(is_trusted));
    take(&below, &[&old, &new]);
    assert!(peers.iter().all(is_trusted), "one more root");
    take(&new, &[&new, &old]);
    assert!(peers.iter().all(is_trusted), "another order, and another signer for what comes");
    let waiting = peers.each_ref().map(|peer| Box::pin(peer.untrusted()));
    take(&new, &[&new]);
    for told in waiting {
        assert_eq!(told.await, Untrusted::RootRemoved);
    }
    assert!(!peers.iter().any(is_trusted), "who asks later hears it too");
    take(&new, &[&new, &old]);
    assert!(peers.iter().all(is_trusted), "given back");
}

#[tokio::test]
async fn a_root_that_was_made_anew_with_its_key_takes_the_place_of_the_old() {
    let old = Authority::named("root");
    let (web, database) = (Identity::new(WEB), Identity::new(DATABASE));
    let peers = accepted(&web, &database, &old, &bundle(&[&old]));
    let anew = bundle(&[&old.made_anew()]);
    assert!(!anew.includes(&bundle(&[&old])));
    web.takes(&old, &anew);
    database.takes(&old, &anew);
    assert!(peers.iter().all(is_trusted));
}

#[tokio::test]
async fn a_chain_is_verified_once_for_all_tunnels_that_stand_on_it() {
    let (old, new) = (Authority::named("old"), Authority::named("new"));
    let (web, database) = (Identity::new(WEB), Identity::new(DATABASE));
    let (client, server) = (web.takes(&old, &bundle(&[&old])), database.takes(&old, &bundle(&[&old])));
    let peers: Vec<_> = std::iter::repeat_with(|| {
        let met = meet(&client, &server, DATABASE).unwrap();
        server.accepted_client(met.server.peer_certificates())
    })
    .take(20)
    .collect();
    let without = bundle(&[&new]);
    database.takes(&old, &without);
    assert!(!peers.iter().any(is_trusted));
    assert_eq!(without.verdicts.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tunnels_take_nothing_new_once_their_own_end_stands_on_another_root() {
    let (old, new) = (Authority::named("root"), Authority::named("root"));
    let (web, database) = (Identity::new(WEB), Identity::new(DATABASE));
    let both = bundle(&[&old, &new]);
    let [client, server] = accepted(&web, &database, &old, &both);
    web.takes(&old, &both);
    web.takes(&old.below("below", 2), &both);
    assert!(!server.root_rotated(), "renewed under the same root");
    assert!(is_pending(std::pin::pin!(server.superseded())));
    let waiting = Box::pin(server.superseded());
    web.takes(&new, &both);
    waiting.await;
    assert!(server.root_rotated());
    assert!(!client.root_rotated(), "the other end's own certificate is still the old root's");
    assert!(is_trusted(&server), "what is in it goes on");
}
