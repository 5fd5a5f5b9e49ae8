//! Keeps a controller's address resolved: the replicas follow DNS.

use super::count::Resolutions;
use tokio::time::sleep;
use weft_balance::Change;
use weft_model::address::Addr;
use weft_model::destination::EndpointInfo;
use weft_model::route::Backoff;
use weft_names::Resolver;

/// Tells `apply` the addresses of `addr`, again whenever they expire, for as long as it is polled. The
/// last good answer stays in force while a lookup fails.
pub(super) async fn follow(
    addr: Addr,
    resolver: Resolver,
    backoff: Backoff,
    resolutions: Resolutions,
    apply: impl Fn(Change),
) {
    let name = match addr {
        Addr::Socket(socket) => return apply(Change::Reset(vec![EndpointInfo::plain(socket)])),
        Addr::Name(name) => name,
    };
    let mut failures = 0;
    let mut counted = resolver.counts();
    loop {
        let resolved = resolver.resolve(&name).await;
        let counts = resolver.counts();
        resolutions.add(counted, counts);
        counted = counts;
        let wait = match resolved {
            Ok(answer) => {
                failures = 0;
                apply(Change::Reset(answer.addrs.into_iter().map(EndpointInfo::plain).collect()));
                match answer.ttl {
                    Some(ttl) => ttl,
                    None => return,
                }
            }
            Err(error) => {
                match failures {
                    0 => tracing::warn!(%error, "cannot resolve a controller, trying again and again"),
                    _ => tracing::debug!(%error, failures, "still cannot resolve a controller"),
                }
                let wait = error.retry_in.unwrap_or_else(|| backoff.wait(failures, fastrand::f64()));
                failures = failures.saturating_add(1);
                wait
            }
        };
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::time::Instant;
    use weft_names::{Addresses, Fetch, NoRecords, Records, Services, TtlBounds};

    /// An address's last byte and its TTL, or a failure with a negative TTL.
    type Line = Result<(u8, u64), Option<u64>>;

    /// What to answer; the last line repeats.
    struct Script(Mutex<VecDeque<Line>>);

    impl Records for Script {
        fn services<'a>(&'a self, _: &'a str) -> Fetch<'a, Services> {
            Box::pin(async { Err(NoRecords { problem: "none".into(), negative_ttl: None }) })
        }

        fn addresses<'a>(&'a self, _: &'a str) -> Fetch<'a, Addresses> {
            let mut script = self.0.lock().unwrap();
            let next = if script.len() > 1 { script.pop_front() } else { script.front().copied() };
            let secs = Duration::from_secs;
            Box::pin(async move {
                match next.unwrap() {
                    Ok((last, ttl)) => Ok(Addresses { ips: vec![[10, 0, 0, last].into()], ttl: secs(ttl) }),
                    Err(ttl) => Err(NoRecords { problem: "none".into(), negative_ttl: ttl.map(secs) }),
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_resolved_again_when_they_expire_and_failures_keep_the_last_answer() {
        let script = [Err(None), Err(None), Ok((1, 7)), Err(Some(20)), Ok((2, 0)), Ok((3, 3600))];
        let resolver = Resolver::new(Script(Mutex::new(script.into())), TtlBounds::default());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (note, begun) = (heard.clone(), Instant::now());
        let apply = move |change| {
            let Change::Reset(infos) = change else { panic!("{change:?}") };
            let addrs: Vec<SocketAddr> = infos.iter().map(|info| info.addr).collect();
            note.lock().unwrap().push((begun.elapsed().as_millis(), addrs[0].to_string()));
        };
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let addr = "policy.mesh:8090".parse().unwrap();
        let following = follow(addr, resolver, backoff, Resolutions::default(), apply);
        assert!(tokio::time::timeout(Duration::from_secs(60), following).await.is_err());
        let heard = heard.lock().unwrap().clone();
        let expected = [(300, "10.0.0.1:8090"), (300 + 27_000, "10.0.0.2:8090"), (32_300, "10.0.0.3:8090")];
        assert_eq!(heard, expected.map(|(at, addr)| (at, addr.to_owned())));
    }
}
