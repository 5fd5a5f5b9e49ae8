//! From messages to the nouns of `model`: what the proxy API's bytes mean (§2 of the data plane).
//!
//! Called by `services` with each message received, and by fuzz targets. Pure: it may refuse a message
//! and never panics. What it leaves out of a message it says in warnings, as data; it logs nothing.
//! Each function reads one message from the buffer, which holds nothing else.

pub(crate) mod endpoint;
mod inbound;
pub(crate) mod outbound;
mod profile;
pub(crate) mod request;
pub(crate) mod route;

use crate::WireError;
use bytes::Buf;
use linkerd2_proxy_api as api;
use prost::Message;
use std::num::NonZeroU16;
use std::time::Duration;
use weft_model::destination::EndpointUpdate;
use weft_model::meta::{Meta, Resource};
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;
use weft_model::route::Filter;

/// Warnings kept for one message; further ones are only counted.
pub(crate) const MAX_WARNINGS: usize = 32;

/// Longest span that a protobuf duration may have, 10,000 years. Keeps arithmetic on instants safe.
const MAX_SPAN: Duration = Duration::from_secs(315_576_000_000);

/// What a message means, and what was left out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<T> {
    /// The meaning.
    pub value: T,
    /// Sentences about parts that were ignored because they are invalid; at most 33 of 300 characters.
    pub warnings: Vec<String>,
}

/// Reads a `destination.Update`. `None`: nothing of it is usable, so it changes nothing.
///
/// # Errors
/// The bytes are not that message.
pub fn endpoint_update(bytes: &mut impl Buf) -> Result<Decoded<Option<EndpointUpdate>>, WireError> {
    let message: api::destination::Update = parse(bytes, "destination.Update")?;
    Ok(with_warnings(|warnings| endpoint::update(message, warnings)))
}

/// Reads a `destination.DestinationProfile`; `port` is the port of the address that was looked up.
///
/// # Errors
/// The bytes are not that message.
pub fn profile(bytes: &mut impl Buf, port: NonZeroU16) -> Result<Decoded<Profile>, WireError> {
    let message: api::destination::DestinationProfile = parse(bytes, "destination.DestinationProfile")?;
    Ok(with_warnings(|warnings| profile::profile(message, port, warnings)))
}

/// Reads an `outbound.OutboundPolicy`. A policy that breaks a rule becomes one that refuses everything,
/// and a warning says which rule.
///
/// # Errors
/// The bytes are not that message.
pub fn outbound_policy(bytes: &mut impl Buf) -> Result<Decoded<OutboundPolicy>, WireError> {
    let message: api::outbound::OutboundPolicy = parse(bytes, "outbound.OutboundPolicy")?;
    Ok(with_warnings(|warnings| outbound::policy_or_invalid(message, warnings)))
}

/// Reads an `inbound.Server`. A server that breaks a rule becomes one that admits nobody, and a warning
/// says which rule.
///
/// # Errors
/// The bytes are not that message.
pub fn inbound_policy(bytes: &mut impl Buf) -> Result<Decoded<InboundPolicy>, WireError> {
    let message: api::inbound::Server = parse(bytes, "inbound.Server")?;
    Ok(with_warnings(|warnings| inbound::server_or_invalid(message, warnings)))
}

/// Reads one protobuf message.
fn parse<M: Message + Default>(bytes: &mut impl Buf, message: &'static str) -> Result<M, WireError> {
    M::decode(bytes).map_err(|e| WireError::Malformed { message, why: e.to_string() })
}

/// Collects parts into a list of exactly their number. `collect` would go on in the message's own list, whose room is
/// for at least four of the message's larger parts, and what is read here stays for long.
fn gather<T>(parts: impl ExactSizeIterator<Item = Result<T, WireError>>) -> Result<Vec<T>, WireError> {
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        all.push(part?);
    }
    Ok(all)
}

/// Reads filters. One that makes no sense fails the requests that meet it, and nothing else.
fn filters(parts: impl Iterator<Item = Result<Filter, WireError>>) -> Vec<Filter> {
    parts.map(|part| part.unwrap_or_else(|e| Filter::Invalid { message: e.to_string() })).collect()
}

/// Collects what a decoder has to say besides its result, bounded.
#[derive(Default)]
struct Warnings {
    texts: Vec<String>,
    omitted: usize,
}

impl Warnings {
    /// Adds a sentence.
    fn add(&mut self, text: impl Into<String>) {
        if self.texts.len() < MAX_WARNINGS {
            let text: String = text.into();
            self.texts.push(text.chars().take(300).collect());
        } else {
            self.omitted += 1;
        }
    }
}

/// Runs a decoder with a fresh collection of warnings.
fn with_warnings<T>(decode: impl FnOnce(&mut Warnings) -> T) -> Decoded<T> {
    let mut warnings = Warnings::default();
    let value = decode(&mut warnings);
    if warnings.omitted > 0 {
        warnings.texts.push(format!("{} more warnings about this message", warnings.omitted));
    }
    Decoded { value, warnings: warnings.texts }
}

/// A protobuf duration, which must not be negative or above 10,000 years. Read by hand, because
/// prost-types' own conversion overflows on hostile values.
fn duration(value: prost_types::Duration, field: &'static str) -> Result<Duration, WireError> {
    let refuse = |why: &str| Err(WireError::invalid(field, why));
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => match Duration::from_secs(seconds) {
            whole if whole > MAX_SPAN => refuse("it is longer than 10,000 years"),
            whole => Ok(whole + Duration::from_nanos(nanos.into())),
        },
        _ => refuse("it is negative or out of range"),
    }
}

/// A duration that must be present.
fn required_duration(
    value: Option<prost_types::Duration>,
    field: &'static str,
) -> Result<Duration, WireError> {
    duration(value.ok_or(WireError::Missing(field))?, field)
}

/// A duration where absent and zero both mean that there is no limit (Gateway API: zero disables).
fn optional_duration(
    value: Option<prost_types::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, WireError> {
    let span = value.map(|d| duration(d, field)).transpose()?;
    Ok(span.filter(|d| !d.is_zero()))
}

/// Metadata of an outbound object, whose resources name all of group, kind, name and namespace.
fn meta(message: Option<api::meta::Metadata>, field: &'static str) -> Result<Meta, WireError> {
    let meta = lenient_meta(message, field)?;
    match &meta {
        Meta::Resource(r) if r.namespace.is_empty() => {
            Err(WireError::invalid(field, "the resource has no namespace"))
        }
        _ => Ok(meta),
    }
}

/// Metadata of an inbound object, whose resources may leave the namespace out.
fn lenient_meta(message: Option<api::meta::Metadata>, field: &'static str) -> Result<Meta, WireError> {
    use api::meta::metadata::Kind;
    match message.and_then(|m| m.kind).ok_or(WireError::Missing(field))? {
        Kind::Default(name) => Ok(Meta::Default(name.into())),
        Kind::Resource(r) => {
            if r.group.is_empty() || r.kind.is_empty() || r.name.is_empty() {
                return Err(WireError::invalid(field, "the resource lacks a group, kind or name"));
            }
            let port =
                u16::try_from(r.port).map_err(|_| WireError::invalid(field, "its port is too large"))?;
            let api::meta::Resource { group, kind, namespace, name, section, .. } = r;
            let port = (port != 0).then_some(port);
            Ok(Meta::Resource(Resource { group, kind, namespace, name, section, port }.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_bounded_and_not_negative() {
        let read = |seconds, nanos| duration(prost_types::Duration { seconds, nanos }, "x").ok();
        assert_eq!(read(1, 500_000_000), Some(Duration::from_millis(1500)));
        assert_eq!(read(-1, 0), None);
        assert_eq!(read(0, -1), None);
        assert_eq!(read(i64::MAX, i32::MAX), None);
        assert_eq!(read(i64::MIN, i32::MIN), None);
        assert_eq!(read(315_576_000_000, 0), Some(MAX_SPAN));
        assert_eq!(read(315_576_000_001, 0), None);
    }

    #[test]
    fn resources_name_all_their_parts() {
        use api::meta::{Metadata, metadata::Kind};
        let resource = |group: &str, namespace: &str, port| api::meta::Resource {
            group: group.into(),
            kind: "Service".into(),
            name: "web".into(),
            namespace: namespace.into(),
            section: String::new(),
            port,
        };
        let wrap = |r| Some(Metadata { kind: Some(Kind::Resource(r)) });
        assert_eq!(meta(wrap(resource("core", "shop", 80)), "m").unwrap().port(), Some(80));
        assert_eq!(meta(wrap(resource("core", "shop", 0)), "m").unwrap().port(), None);
        assert!(meta(wrap(resource("core", "", 80)), "m").is_err());
        assert!(lenient_meta(wrap(resource("core", "", 80)), "m").is_ok());
        assert!(meta(wrap(resource("", "shop", 80)), "m").is_err());
        assert!(meta(wrap(resource("core", "shop", 70_000)), "m").is_err());
        assert_eq!(meta(None, "m"), Err(WireError::Missing("m")));
    }

    #[test]
    fn warnings_are_bounded() {
        let decoded = with_warnings(|w| (0..1000).for_each(|n| w.add(n.to_string().repeat(500))));
        assert_eq!(decoded.warnings.len(), MAX_WARNINGS + 1);
        assert_eq!(decoded.warnings[1].len(), 300);
        assert_eq!(decoded.warnings[MAX_WARNINGS], "968 more warnings about this message");
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let port = NonZeroU16::MIN;
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        for _ in 0..20_000 {
            let length = (random.next() % 96) as usize;
            // Small numbers are likelier: they make valid tags and lengths.
            let mut bytes: Vec<u8> = Vec::with_capacity(length);
            for _ in 0..length {
                let draw = random.next();
                bytes.push(if draw & 0x300 == 0 { (draw & 0xff) as u8 } else { (draw & 0x3f) as u8 });
            }
            let _ = endpoint_update(&mut &bytes[..]);
            let _ = profile(&mut &bytes[..], port);
            let _ = outbound_policy(&mut &bytes[..]);
            let _ = inbound_policy(&mut &bytes[..]);
            let _ = crate::header::Header::decode(&bytes);
        }
    }

    /// A tiny reproducible generator.
    struct Xorshift(u64);

    impl Xorshift {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
    }
}
