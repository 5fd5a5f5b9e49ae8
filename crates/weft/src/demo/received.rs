//! What the receiving sidecars say of the requests that reached them. Pure.
//!
//! `shop` reads it from each replica's page; `table` and `checks` compare it with what was sent. Only the
//! receiver can testify that a request was meshed: it has verified the sender's certificate.

use super::layout;
use super::scrape::Page;

/// What a replica's sidecar received and what it knew of the senders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Requests, or connections of bytes.
    pub(crate) all: u64,
    /// Those over mutual TLS from a client with a verified identity.
    pub(crate) verified: u64,
    /// Those from a verified identity that is not the load generator's.
    pub(crate) foreign: u64,
    /// Requests that it passed to its program for the load generator, by the series of that exchange; none
    /// for bytes.
    pub(crate) passed_on: u64,
}

impl Received {
    /// Reads what a sidecar counted.
    pub(crate) fn of(page: &Page) -> Self {
        let expected = layout::identity("load").map(|id| id.to_string()).unwrap_or_default();
        let mut received = Self::default();
        for family in ["inbound_http_authz_allow_total", "inbound_tcp_authz_allow_total"] {
            for sample in page.of(family) {
                let client = sample.label("client_id");
                let is_verified = sample.label("tls") == "true" && !client.is_empty();
                received.all += sample.count();
                received.verified += if is_verified { sample.count() } else { 0 };
                received.foreign += if is_verified && client != expected { sample.count() } else { 0 };
            }
        }
        let wanted = [("direction", "inbound"), ("tls", "true"), ("client_id", &expected)];
        received.passed_on = page.sum("request_total", &wanted);
        received
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            all: self.all + other.all,
            verified: self.verified + other.verified,
            foreign: self.foreign + other.foreign,
            passed_on: self.passed_on + other.passed_on,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_verified_clients_count_as_meshed() {
        let load = layout::identity("load").unwrap();
        let page = Page::parse(&format!(
            "inbound_http_authz_allow_total{{tls=\"true\",client_id=\"{load}\"}} 5\n\
             inbound_http_authz_allow_total{{tls=\"true\",client_id=\"x\"}} 2\n\
             inbound_http_authz_allow_total{{tls=\"true\",client_id=\"\"}} 3\n\
             inbound_http_authz_allow_total{{tls=\"no_identity\"}} 4\n\
             inbound_tcp_authz_allow_total{{tls=\"true\",client_id=\"{load}\"}} 1\n\
             request_total{{direction=\"inbound\",tls=\"true\",client_id=\"{load}\"}} 5\n"
        ));
        assert_eq!(Received::of(&page), Received { all: 15, verified: 8, foreign: 2, passed_on: 5 });
    }
}
