#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use base64::Engine as _;
use rcgen::SigningKey as _;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::testing::{Authority, DATABASE, Met, WEB, explained, is_pending, meet};
use crate::{AcceptedPeer, Untrusted};

const REVOKED: &str = "invalid peer certificate: Revoked";

/// A revocation list in the making; written here byte by byte, so that it can be what no library would write.
struct List<'a> {
    signer: &'a Authority,
    /// In whose name, where it is not the signer.
    named: &'a Authority,
    serials: &'a [u64],
    version: &'a [u8],
    next_update: Option<&'a str>,
    /// Complete extensions after the number.
    extensions: Vec<Vec<u8>>,
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match u16::try_from(content.len()).unwrap() {
        short @ 0..=0x7f => vec![u8::try_from(short).unwrap()],
        middle @ 0x80..=0xff => vec![0x81, u8::try_from(middle).unwrap()],
        long => [[0x82].as_slice(), &long.to_be_bytes()].concat(),
    };
    [[tag].as_slice(), &length, &content].concat()
}

fn extension(number: u8, is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[0x01, 0x01, 0xff] } else { &[] };
    der(0x30, &[&[0x06, 0x03, 0x55, 0x1d, number], critical, &der(0x04, &[value])])
}

/// An issuing distribution point with these fields.
fn distribution_point(fields: &[&[u8]]) -> Vec<u8> {
    extension(28, true, &der(0x30, fields))
}

const ONLY_USERS: &[u8] = &[0x81, 0x01, 0xff];
const ONLY_AUTHORITIES: &[u8] = &[0x82, 0x01, 0xff];
/// `[0] { [0] { URI "http://x" } }`
const FULL_NAME: &[u8] = b"\xa0\x0c\xa0\x0a\x86\x08http://x";

impl<'a> List<'a> {
    fn of(signer: &'a Authority, serials: &'a [u64]) -> Self {
        Self { signer, named: signer, serials, version: &[1], next_update: Some("491231235959Z"), extensions: vec![] }
    }

    fn der(&self) -> Vec<u8> {
        const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        let time = |text: &str| der(0x17, &[text.as_bytes()]);
        let (_, authority) = X509Certificate::from_der(self.named.issuer.der()).unwrap();
        let entries: Vec<_> =
            self.serials.iter().map(|serial| der(0x30, &[&integer(*serial), &time("200101000000Z")])).collect();
        let entries = if entries.is_empty() { vec![] } else { der(0x30, &[&entries.concat()]) };
        let extensions = der(0x30, &[&extension(20, false, &[0x02, 0x01, 0x01]), &self.extensions.concat()]);
        let signed = der(
            0x30,
            &[
                &der(0x02, &[self.version]),
                ECDSA_SHA256,
                authority.subject().as_raw(),
                &time("200101000000Z"),
                &self.next_update.map(time).unwrap_or_default(),
                &entries,
                &der(0xa0, &[&extensions]),
            ],
        );
        let signature = self.signer.issuer.key().sign(&signed).unwrap();
        der(0x30, &[&signed, ECDSA_SHA256, &der(0x03, &[&[0], &signature])])
    }

    fn pem(&self) -> String {
        pem(&self.der())
    }
}

/// As certificates carry it: big-endian, with a leading zero where it would look negative.
fn integer(value: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    if bytes.first().is_none_or(|first| *first > 0x7f) {
        bytes.insert(0, 0);
    }
    der(0x02, &[&bytes])
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n")
}

/// A mesh of two that trust one root and have certificates from an authority below it; the lists are of one of them.
struct Mesh {
    root: Authority,
    below: Authority,
}

const BELOW: u64 = 0xb0;
const PEER: u64 = 0xc5;

impl Mesh {
    fn new() -> Self {
        let root = Authority::named("root");
        let below = root.below("below", BELOW);
        Self { root, below }
    }

    /// What becomes of a peer under `lists`, as server and as client; the two must agree.
    fn verdicts(&self, lists: &str) -> Result<(), String> {
        self.judged_by(&self.below, lists)
    }

    /// The same for a peer whose certificate `issuer` has signed.
    fn judged_by(&self, issuer: &Authority, lists: &str) -> Result<(), String> {
        let revocations = Arc::new(Revocations::default());
        revocations.replace(RevocationLists::from_pem(lists.as_bytes()).unwrap());
        let ours = self.below.certificate_of(WEB, 1, &revocations);
        let peer = issuer.certificate_of(DATABASE, PEER, &Arc::default());
        let as_server = meet(&ours, &peer, DATABASE).map(drop).map_err(explained);
        let as_client = meet(&peer, &ours, WEB).map(drop).map_err(explained);
        assert_eq!(as_server, as_client);
        as_server
    }
}

#[test]
fn a_revoked_leaf_is_refused_and_its_siblings_are_not() {
    let mesh = Mesh::new();
    let list = |serials| List::of(&mesh.below, serials).pem();
    assert_eq!(mesh.verdicts(&list(&[PEER])), Err(REVOKED.to_owned()));
    assert_eq!(mesh.verdicts(&list(&[1, 2, PEER])), Err(REVOKED.to_owned()));
    assert_eq!(mesh.verdicts(&list(&[PEER + 1])), Ok(()));
    assert_eq!(mesh.verdicts(&list(&[])), Ok(()));
    assert_eq!(mesh.verdicts(" \n"), Ok(()));
}

#[test]
fn whoever_is_below_a_revoked_authority_is_refused() {
    let mesh = Mesh::new();
    assert_eq!(mesh.verdicts(&List::of(&mesh.root, &[BELOW]).pem()), Err(REVOKED.to_owned()));
    // The numbers of one issuer say nothing about those of another.
    assert_eq!(mesh.verdicts(&List::of(&mesh.root, &[PEER]).pem()), Ok(()));
    assert_eq!(mesh.verdicts(&List::of(&mesh.below, &[BELOW]).pem()), Ok(()));
}

#[test]
fn a_list_of_somebody_else_changes_nothing() {
    let (mesh, other) = (Mesh::new(), Authority::named("other"));
    assert_eq!(mesh.verdicts(&List::of(&other, &[PEER, BELOW, 1]).pem()), Ok(()));
}

#[test]
fn an_expired_list_still_revokes_what_it_names() {
    let mesh = Mesh::new();
    let expired = List { next_update: Some("200102000000Z"), ..List::of(&mesh.below, &[PEER]) };
    assert_eq!(mesh.verdicts(&expired.pem()), Err(REVOKED.to_owned()));
    let expired = List { next_update: Some("200102000000Z"), ..List::of(&mesh.below, &[PEER + 1]) };
    assert_eq!(mesh.verdicts(&expired.pem()), Ok(()));
}

#[test]
fn a_list_that_its_issuer_did_not_sign_closes_rather_than_passes() {
    let (mesh, impostor) = (Mesh::new(), Authority::named("impostor"));
    for serials in [&[PEER][..], &[]] {
        let forged = List { named: &mesh.below, ..List::of(&impostor, serials) };
        let error = mesh.verdicts(&forged.pem()).unwrap_err();
        assert!(error.contains("revocation list of the peer's issuer cannot be used"), "{error}");
    }
}

#[test]
fn an_authority_made_anew_under_its_old_name_has_lists_of_both_keys() {
    let (old_root, root) = (Authority::named("root"), Authority::named("root"));
    let old = old_root.below("below", 2).trusting(&root);
    let mesh = Mesh { below: root.below("below", BELOW).trusting(&old_root), root };
    let lists = |of_old, of_new| [List::of(&old, of_old).pem(), List::of(&mesh.below, of_new).pem()].concat();
    assert_eq!(mesh.verdicts(&lists(&[PEER], &[])), Ok(()));
    assert_eq!(mesh.verdicts(&lists(&[], &[PEER])), Err(REVOKED.to_owned()));
    assert_eq!(mesh.judged_by(&old, &lists(&[PEER], &[])), Err(REVOKED.to_owned()));
    assert_eq!(mesh.judged_by(&old, &lists(&[], &[PEER])), Ok(()));
}

#[test]
fn every_list_of_an_issuer_counts() {
    let mesh = Mesh::new();
    let (first, second) = (List::of(&mesh.below, &[PEER]).pem(), List::of(&mesh.below, &[]).pem());
    assert_eq!(mesh.verdicts(&[&*first, &*second].concat()), Err(REVOKED.to_owned()));
    assert_eq!(mesh.verdicts(&[&*second, &*first].concat()), Err(REVOKED.to_owned()));
    assert_eq!(mesh.verdicts(&[&*second, &*second].concat()), Ok(()));
    let above = List::of(&mesh.root, &[BELOW]).pem();
    assert_eq!(mesh.verdicts(&[&*second, &*above, &*second].concat()), Err(REVOKED.to_owned()));
}

#[test]
fn a_scope_binds_a_list_to_leaves_or_to_authorities() {
    let mesh = Mesh::new();
    let scoped = |signer, serials, scope: &[u8]| {
        List { extensions: vec![distribution_point(&[FULL_NAME, scope])], ..List::of(signer, serials) }.pem()
    };
    let (leaves, authorities) = (&[PEER][..], &[BELOW][..]);
    assert_eq!(mesh.verdicts(&scoped(&mesh.below, leaves, &[])), Err(REVOKED.to_owned()));
    assert_eq!(mesh.verdicts(&scoped(&mesh.below, leaves, ONLY_USERS)), Err(REVOKED.to_owned()));
    assert_eq!(mesh.verdicts(&scoped(&mesh.below, leaves, ONLY_AUTHORITIES)), Ok(()));
    assert_eq!(mesh.verdicts(&scoped(&mesh.root, authorities, ONLY_AUTHORITIES)), Err(REVOKED.to_owned()));
    assert_eq!(mesh.verdicts(&scoped(&mesh.root, authorities, ONLY_USERS)), Ok(()));
    // Two lists of one issuer, divided by scope: neither hides the other.
    let divided = [scoped(&mesh.below, &[], ONLY_AUTHORITIES), scoped(&mesh.below, leaves, ONLY_USERS)].concat();
    assert_eq!(mesh.verdicts(&divided), Err(REVOKED.to_owned()));
}

#[test]
fn what_cannot_be_understood_is_refused_as_a_whole() {
    let mesh = Mesh::new();
    let good = List::of(&mesh.below, &[PEER]);
    let with = |extension| List { extensions: vec![extension], ..List::of(&mesh.below, &[PEER]) }.pem();
    let indirect: &[u8] = &[0x84, 0x01, 0xff];
    let bad = [
        ("version 1", List { version: &[0], ..List::of(&mesh.below, &[]) }.pem()),
        ("no end", List { next_update: None, ..List::of(&mesh.below, &[]) }.pem()),
        ("delta", with(extension(27, true, &[0x02, 0x01, 0x01]))),
        ("indirect", with(distribution_point(&[FULL_NAME, indirect]))),
        ("scope without a name", with(distribution_point(&[ONLY_USERS]))),
        ("some reasons", with(distribution_point(&[FULL_NAME, &[0x83, 0x02, 0x00, 0x80]]))),
        ("no reasons (RUSTSEC-2026-0104)", with(distribution_point(&[FULL_NAME, &[0x83, 0x01, 0x00]]))),
        ("unknown and critical", with(extension(99, true, &[0x05, 0x00]))),
        ("bytes", pem(b"no list")),
    ];
    for (what, bad) in bad {
        let bundle = format!("{}{bad}", good.pem());
        let error = RevocationLists::from_pem(bundle.as_bytes()).expect_err(what).to_string();
        assert!(error.starts_with("revocation list 2"), "{what}: {error}");
    }
    for text in ["no list", "-----BEGIN X509 CRL-----\nAAAA", &mesh.root.issuer.pem()] {
        let error = RevocationLists::from_pem(text.as_bytes()).expect_err(text);
        assert!(matches!(error, BadRevocationLists::Pem(_)), "{error}");
    }
}

#[test]
fn damaged_lists_are_refused_and_never_panic() {
    let mesh = Mesh::new();
    let scope = distribution_point(&[FULL_NAME, ONLY_USERS]);
    let whole = List { extensions: vec![scope], ..List::of(&mesh.below, &[PEER, 1, 0xffff_ffff_ffff]) }.der();
    for length in 0..whole.len() {
        let cut = pem(whole.get(..length).unwrap());
        assert!(RevocationLists::from_pem(cut.as_bytes()).is_err(), "cut to {length}");
    }
    let text = pem(&whole);
    for length in 1..text.trim_end().len() {
        assert!(RevocationLists::from_pem(text.get(..length).unwrap().as_bytes()).is_err(), "PEM cut to {length}");
    }
    // Whatever one byte is changed to: refused, or a list that no longer revokes anybody.
    let ours = mesh.below.certificate_of(WEB, 1, &Arc::default());
    let met = meet(&ours, &ours, WEB).unwrap();
    let accepted = ours.accepted_client(met.server.peer_certificates());
    assert!(accepted.is_revoked_by(&RevocationLists::from_pem(text.as_bytes()).unwrap()));
    for position in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            *damaged.get_mut(position).unwrap() ^= change;
            if let Ok(lists) = RevocationLists::from_pem(pem(&damaged).as_bytes()) {
                assert!(!accepted.is_revoked_by(&lists), "byte {position}");
            }
        }
    }
}

#[tokio::test]
async fn a_peer_that_was_accepted_hears_when_it_is_revoked() {
    let mesh = Mesh::new();
    let revocations = Arc::new(Revocations::default());
    let (ours, peer) =
        (mesh.below.certificate_of(WEB, 1, &revocations), mesh.below.certificate_of(DATABASE, PEER, &revocations));
    let Met { client, server } = meet(&ours, &peer, DATABASE).unwrap();
    let (of_server, of_client) =
        (ours.accepted_server(client.peer_certificates()), peer.accepted_client(server.peer_certificates()));
    let waits = |accepted: &AcceptedPeer| is_pending(std::pin::pin!(accepted.untrusted()));
    assert!(waits(&of_server) && waits(&of_client));

    let mut told = std::pin::pin!(of_server.untrusted());
    assert!(is_pending(told.as_mut()));
    revocations.replace(RevocationLists::from_pem(List::of(&mesh.below, &[PEER + 1]).pem().as_bytes()).unwrap());
    assert!(is_pending(told.as_mut()), "a list that does not name it");
    let impostor = Authority::named("below");
    let forged = List { named: &mesh.below, ..List::of(&impostor, &[PEER]) }.pem();
    revocations.replace(RevocationLists::from_pem(forged.as_bytes()).unwrap());
    assert!(is_pending(told.as_mut()), "a list that its issuer did not sign");
    revocations.replace(RevocationLists::from_pem(List::of(&mesh.below, &[PEER]).pem().as_bytes()).unwrap());
    assert_eq!(told.await, Untrusted::Revoked);
    assert!(!waits(&of_server), "revoked already");
    assert!(waits(&of_client), "the other end is not");
}

#[test]
fn a_client_cannot_get_around_the_lists_by_resuming() {
    let mesh = Mesh::new();
    let (ours, peer) = (mesh.below.certificate(WEB), mesh.below.certificate(DATABASE));
    for _ in 0..3 {
        let met = meet(&ours, &peer, DATABASE).unwrap();
        assert_eq!(met.server.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    assert_eq!(peer.server_config().send_tls13_tickets, 0);
}
