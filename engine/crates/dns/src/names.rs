//! The full names that a queried name may mean, by the pod's search path.
//!
//! A resolver in a pod tries a short name with each of its search domains in turn, `<namespace>.svc.<domain>`,
//! `svc.<domain>` and `<domain>`, and a name with few dots likewise before it tries the name itself. Both ways are
//! undone here: a short name is completed, and a completed foreign name is cut back, so the first try finds it.

/// All names that `queried` may mean, the likeliest first. All in lower case, without a last dot.
#[must_use]
pub fn meanings(queried: &str, namespace: &str, domain: &str) -> Vec<String> {
    let search = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    let mut all = Vec::with_capacity(4);
    let mut add = |name: String| {
        if !all.contains(&name) {
            all.push(name);
        }
    };
    add(queried.to_owned());
    completed(queried, &search).into_iter().for_each(&mut add);
    for suffix in &search {
        let short = queried.strip_suffix(suffix.as_str()).and_then(|rest| rest.strip_suffix('.'));
        if let Some(short) = short.filter(|short| !short.is_empty()) {
            add(short.to_owned());
            completed(short, &search).into_iter().for_each(&mut add);
        }
    }
    all
}

/// `service`, `service.namespace` and `service.namespace.svc` with what is missing.
fn completed(name: &str, search: &[String; 3]) -> Option<String> {
    let [in_namespace, of_services, domain] = search;
    match name.split('.').collect::<Vec<_>>().as_slice() {
        [_] => Some(format!("{name}.{in_namespace}")),
        [_, _] => Some(format!("{name}.{of_services}")),
        [_, _, "svc"] => Some(format!("{name}.{domain}")),
        _ => None,
    }
}

/// The wildcards that cover a name, the closest first: `*.b.c` and `*.c` for `a.b.c`.
pub fn wildcards(name: &str) -> impl Iterator<Item = String> {
    name.match_indices('.').filter_map(|(dot, _)| name.get(dot..)).map(|rest| format!("*{rest}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a failed index is a failed test")]
    use super::*;

    fn of(queried: &str) -> Vec<String> {
        meanings(queried, "shop", "cluster.local")
    }

    #[test]
    fn short_names_are_completed_as_the_search_path_would() {
        assert_eq!(of("web"), ["web", "web.shop.svc.cluster.local"]);
        assert_eq!(of("web.other"), ["web.other", "web.other.svc.cluster.local"]);
        assert_eq!(of("web.other.svc"), ["web.other.svc", "web.other.svc.cluster.local"]);
        assert_eq!(of("a.b.c"), ["a.b.c"]);
    }

    #[test]
    fn search_domains_are_cut_off() {
        assert_eq!(
            of("api.example.com.shop.svc.cluster.local"),
            [
                "api.example.com.shop.svc.cluster.local",
                "api.example.com",
                "api.example.com.shop",
                "api.example.com.shop.svc"
            ]
        );
        assert_eq!(of("web.other.shop.svc.cluster.local")[1..3], ["web.other", "web.other.svc.cluster.local"]);
        // A full name means itself first.
        assert_eq!(of("web.shop.svc.cluster.local")[0], "web.shop.svc.cluster.local");
        assert_eq!(of("shop.svc.cluster.local")[0], "shop.svc.cluster.local");
        assert_eq!(of("cluster.local")[0], "cluster.local");
    }

    #[test]
    fn wildcards_walk_up_the_labels() {
        assert_eq!(wildcards("a.b.c").collect::<Vec<_>>(), ["*.b.c", "*.c"]);
        assert_eq!(wildcards("a").count(), 0);
    }
}
