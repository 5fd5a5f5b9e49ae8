//! Whether a response counts as a success (§2.3, §3.6).

use http::{HeaderMap, HeaderName, StatusCode};
use weft_model::profile::{ResponseClass, ResponseCondition};

/// How a response counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A success.
    Success,
    /// A failure.
    Failure,
}

impl Class {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Failure => "failure",
        }
    }

    const fn of(failed: bool) -> Self {
        if failed { Class::Failure } else { Class::Success }
    }
}

/// Whether a content type is gRPC's.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The `grpc-status` that headers or trailers carry.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.trim().parse().ok()
}

/// gRPC codes that count as failures: Unknown, DeadlineExceeded, PermissionDenied, Internal,
/// Unavailable, DataLoss.
pub fn grpc_failed(code: u16) -> bool {
    matches!(code, 2 | 4 | 7 | 13 | 14 | 15)
}

/// Classifies an HTTP status by a profile's classes, failing that by 5xx.
pub fn by_status(classes: &[ResponseClass], status: StatusCode) -> Class {
    let matched = classes.iter().find(|class| holds(&class.condition, status));
    Class::of(matched.map_or(status.is_server_error(), |class| class.is_failure))
}

/// Classifies a finished gRPC call; `code` is what headers or trailers said, if anything. A call that
/// ends without a status counts as a failure: its outcome is unknown to the caller. (The peer counts
/// it as a success.)
pub fn by_grpc(code: Option<u16>) -> Class {
    Class::of(code.is_none_or(grpc_failed))
}

fn holds(condition: &ResponseCondition, status: StatusCode) -> bool {
    match condition {
        ResponseCondition::All(parts) => parts.iter().all(|p| holds(p, status)),
        ResponseCondition::Any(parts) => parts.iter().any(|p| holds(p, status)),
        ResponseCondition::Not(part) => !holds(part, status),
        ResponseCondition::Status(range) => range.contains(status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::route::StatusRange;

    #[test]
    fn the_first_matching_class_decides_and_5xx_fails_without_one() {
        let range = |min, max| ResponseCondition::Status(StatusRange { min, max });
        let classes = [
            ResponseClass { condition: range(404, 404), is_failure: true },
            ResponseClass { condition: ResponseCondition::Not(Box::new(range(100, 502))), is_failure: false },
        ];
        for (status, class) in
            [(200, Class::Success), (404, Class::Failure), (503, Class::Success), (500, Class::Failure)]
        {
            assert_eq!(by_status(&classes, StatusCode::from_u16(status).unwrap()), class, "{status}");
        }
    }

    #[test]
    fn grpc_calls_count_by_their_status() {
        for (code, class) in [
            (Some(0), Class::Success),
            (Some(5), Class::Success),
            (Some(14), Class::Failure),
            (None, Class::Failure),
        ] {
            assert_eq!(by_grpc(code), class, "{code:?}");
        }
    }
}
