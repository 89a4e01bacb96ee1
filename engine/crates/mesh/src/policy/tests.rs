#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use culvert_core::proto::security::string_match::MatchType;
use culvert_core::proto::workload as workload_wire;

use super::*;

fn workload(policies: &[&str]) -> Workload {
    Workload::parse(workload_wire::Workload {
        uid: "u".into(),
        namespace: "shop".into(),
        authorization_policies: policies.iter().map(ToString::to_string).collect(),
        ..Default::default()
    })
    .unwrap()
}

fn from(identity: &str) -> Subject {
    Subject {
        peer: identity.parse().ok(),
        source: "10.0.0.9".parse().unwrap(),
        destination: "10.0.0.1:8080".parse().unwrap(),
    }
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const PLAIN: &str = "";

fn exact(text: &str) -> wire::StringMatch {
    wire::StringMatch { match_type: Some(MatchType::Exact(text.into())) }
}

fn presence() -> wire::StringMatch {
    wire::StringMatch { match_type: Some(MatchType::Presence(())) }
}

fn policy(name: &str, action: wire::Action, clauses: Option<Vec<Vec<wire::Match>>>) -> wire::Authorization {
    let clause = |matches| wire::Clause { matches };
    wire::Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: wire::Scope::Namespace.into(),
        action: action.into(),
        rules: clauses
            .map(|clauses| wire::Rule { clauses: clauses.into_iter().map(clause).collect() })
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

fn one(matching: wire::Match) -> Option<Vec<Vec<wire::Match>>> {
    Some(vec![vec![matching]])
}

fn verdict(policies: Vec<wire::Authorization>, subject: &Subject) -> Result<(), Denied> {
    let mut all = Policies::default();
    for wire in policies {
        all.insert(Policy::parse(wire).unwrap());
    }
    all.authorize(&workload(&[]), subject)
}

#[test]
fn without_policies_everybody_passes() {
    assert_eq!(verdict(vec![], &from(PLAIN)), Ok(()));
}

#[test]
fn an_allow_policy_closes_the_workload_to_others() {
    let allow =
        || policy("a", wire::Action::Allow, one(wire::Match { namespaces: vec![exact("shop")], ..Default::default() }));
    assert_eq!(verdict(vec![allow()], &from(WEB)), Ok(()));
    assert_eq!(verdict(vec![allow()], &from("spiffe://cluster.local/ns/other/sa/web")), Err(Denied::NotAllowed));
    assert_eq!(verdict(vec![allow()], &from(PLAIN)), Err(Denied::NotAllowed));
}

#[test]
fn deny_wins_over_allow_and_is_named() {
    let all = || Some(vec![]);
    let both = vec![policy("a", wire::Action::Allow, all()), policy("d", wire::Action::Deny, all())];
    assert_eq!(verdict(both, &from(WEB)), Err(Denied::By("shop/d".into())));
}

#[test]
fn empty_parts_mean_what_istio_says_they_mean() {
    use wire::Action::{Allow, Deny};
    // No rules: never matches. A rule without clauses: matches. A clause without matches: matches.
    assert_eq!(verdict(vec![policy("a", Allow, None)], &from(WEB)), Err(Denied::NotAllowed));
    assert_eq!(verdict(vec![policy("d", Deny, None)], &from(WEB)), Ok(()));
    assert_eq!(verdict(vec![policy("a", Allow, Some(vec![]))], &from(PLAIN)), Ok(()));
    assert_eq!(verdict(vec![policy("a", Allow, Some(vec![vec![]]))], &from(PLAIN)), Ok(()));
    // A match without conditions matches nothing.
    assert_eq!(verdict(vec![policy("a", Allow, one(wire::Match::default()))], &from(WEB)), Err(Denied::NotAllowed));
}

#[test]
fn strict_is_a_deny_of_whoever_has_no_identity() {
    let strict =
        || policy("s", wire::Action::Deny, one(wire::Match { not_principals: vec![presence()], ..Default::default() }));
    assert_eq!(verdict(vec![strict()], &from(WEB)), Ok(()));
    assert_eq!(verdict(vec![strict()], &from(PLAIN)), Err(Denied::By("shop/s".into())));
}

#[test]
fn clauses_are_and_matches_are_or_values_are_or() {
    let port = |port| wire::Match { destination_ports: vec![port], ..Default::default() };
    let web = wire::Match { principals: vec![exact("cluster.local/ns/shop/sa/web"), exact("x")], ..Default::default() };
    let allow = |ports| vec![policy("a", wire::Action::Allow, Some(vec![vec![web.clone()], ports]))];
    assert_eq!(verdict(allow(vec![port(80), port(8080)]), &from(WEB)), Ok(()));
    assert_eq!(verdict(allow(vec![port(80)]), &from(WEB)), Err(Denied::NotAllowed));
}

#[test]
fn ranges_accounts_and_negations() {
    let range = |a: [u8; 4], length| wire::Address { address: a.to_vec().into(), length };
    let allowed = |matching| verdict(vec![policy("a", wire::Action::Allow, one(matching))], &from(WEB)).is_ok();
    let none = wire::Match::default;
    assert!(allowed(wire::Match { source_ips: vec![range([10, 0, 0, 0], 24)], ..none() }));
    assert!(!allowed(wire::Match { source_ips: vec![range([10, 0, 1, 0], 24)], ..none() }));
    assert!(!allowed(wire::Match { not_source_ips: vec![range([10, 0, 0, 9], 32)], ..none() }));
    let account =
        |namespace: &str| wire::ServiceAccountMatch { namespace: namespace.into(), service_account: "web".into() };
    assert!(allowed(wire::Match { service_accounts: vec![account("shop")], ..none() }));
    assert!(!allowed(wire::Match { service_accounts: vec![account("shopx")], ..none() }));
    assert!(!allowed(wire::Match { not_service_accounts: vec![account("shop")], ..none() }));
    assert!(allowed(wire::Match { not_destination_ports: vec![80], ..none() }));
}

#[test]
fn global_and_selected_policies_reach_where_they_should() {
    let deny = |name: &str, scope: wire::Scope, namespace: &str| wire::Authorization {
        scope: scope.into(),
        namespace: namespace.into(),
        ..policy(name, wire::Action::Deny, Some(vec![]))
    };
    let judge = |wire: wire::Authorization, attached: &[&str]| {
        let mut all = Policies::default();
        all.insert(Policy::parse(wire).unwrap());
        all.authorize(&workload(attached), &from(WEB)).is_ok()
    };
    assert!(!judge(deny("d", wire::Scope::Global, "istio-system"), &[]));
    assert!(judge(deny("d", wire::Scope::Namespace, "other"), &[]));
    assert!(judge(deny("d", wire::Scope::WorkloadSelector, "shop"), &[]));
    assert!(!judge(deny("d", wire::Scope::WorkloadSelector, "shop"), &["shop/d"]));
}

#[test]
fn a_policy_that_is_named_but_unknown_closes_the_workload() {
    let verdict = Policies::default().authorize(&workload(&["shop/coming"]), &from(WEB));
    assert_eq!(verdict, Err(Denied::Unknown("shop/coming".into())));
}

#[test]
fn dry_run_decides_nothing() {
    for action in [wire::Action::Allow, wire::Action::Deny] {
        let dry = wire::Authorization { dry_run: true, ..policy("x", action, Some(vec![])) };
        let subject = from(PLAIN);
        assert_eq!(verdict(vec![dry], &subject), Ok(()));
    }
}

#[test]
fn dry_run_tells_what_it_would_refuse() {
    let evaluate_with_shadow = |policies: Vec<wire::Authorization>| {
        let mut all = Policies::default();
        for wire in policies {
            all.insert(Policy::parse(wire).unwrap());
        }
        all.evaluate_with_shadow(&workload(&[]), &from(WEB))
    };
    let dry = |name, action, rules| wire::Authorization { dry_run: true, ..policy(name, action, rules) };
    let (allow, deny) = (wire::Action::Allow, wire::Action::Deny);
    assert_eq!(evaluate_with_shadow(vec![]), Ok(None));
    assert_eq!(evaluate_with_shadow(vec![dry("d", deny, Some(vec![]))]), Ok(Some(Denied::By("shop/d".into()))));
    assert_eq!(evaluate_with_shadow(vec![dry("d", deny, None)]), Ok(None), "it does not match");
    assert_eq!(evaluate_with_shadow(vec![dry("a", allow, None)]), Ok(Some(Denied::NotAllowed)));
    assert_eq!(
        evaluate_with_shadow(vec![dry("a", allow, None), policy("b", allow, Some(vec![]))]),
        Ok(None),
        "another allows"
    );
    let both = vec![policy("d", deny, Some(vec![])), dry("e", deny, Some(vec![]))];
    assert_eq!(evaluate_with_shadow(both), Err(Denied::By("shop/d".into())), "refused already, without the dry run");
}

#[test]
fn a_removed_or_replaced_policy_is_gone_from_every_index() {
    let mut all = Policies::default();
    all.insert(Policy::parse(policy("d", wire::Action::Deny, Some(vec![]))).unwrap());
    let moved = wire::Authorization {
        scope: wire::Scope::WorkloadSelector.into(),
        ..policy("d", wire::Action::Deny, Some(vec![]))
    };
    all.insert(Policy::parse(moved).unwrap());
    assert_eq!(all.authorize(&workload(&[]), &from(WEB)), Ok(()));
    assert!(all.remove("shop/d"));
    assert!(!all.remove("shop/d"));
    assert_eq!(all.iter().count(), 0);
}

#[test]
fn what_cannot_be_understood_is_refused_whole() {
    let bad = |matching| Policy::parse(policy("a", wire::Action::Deny, one(matching))).unwrap_err().to_string();
    let none = wire::Match::default;
    let range = |length| wire::Address { address: vec![10, 0, 0, 0].into(), length };
    assert!(bad(wire::Match { source_ips: vec![range(33)], ..none() }).contains("source_ips"));
    assert!(bad(wire::Match { destination_ports: vec![70_000], ..none() }).contains("70000"));
    assert!(bad(wire::Match { principals: vec![wire::StringMatch::default()], ..none() }).contains("principals"));
    let scope = wire::Authorization { scope: 9, ..policy("a", wire::Action::Deny, None) };
    assert!(Policy::parse(scope).unwrap_err().to_string().contains("scope"));
}

#[test]
fn a_range_of_ipv4_in_ipv6_form_means_ipv4() {
    let mapped = |last: u8, length| wire::Address {
        address: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last].into(),
        length,
    };
    let denied = |range| {
        let matching = wire::Match { source_ips: vec![range], ..Default::default() };
        verdict(vec![policy("d", wire::Action::Deny, one(matching))], &from(WEB)).is_err()
    };
    assert!(denied(mapped(9, 128)));
    assert!(denied(mapped(0, 120)));
    assert!(!denied(mapped(8, 128)));
}

#[test]
fn who_decided_is_told() {
    let allow = || policy("a", wire::Action::Allow, Some(vec![]));
    let mut all = Policies::default();
    assert_eq!(all.evaluate(&workload(&[]), &from(WEB)), Ok(None));
    all.insert(Policy::parse(allow()).unwrap());
    all.insert(Policy::parse(wire::Authorization { name: "dry".into(), dry_run: true, ..allow() }).unwrap());
    assert_eq!(all.evaluate(&workload(&[]), &from(WEB)), Ok(Some("shop/a".into())));
    assert_eq!(all.dry_run(&workload(&["shop/dry"]), &from(WEB)), vec!["shop/dry".into()]);
}
