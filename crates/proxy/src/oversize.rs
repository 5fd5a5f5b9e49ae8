//! HTTP/2 requests whose header list is beyond the limit: h2 answers 431 by itself, and this counts and logs why.
//!
//! `serve` runs it beside each HTTP/2 connection. It answers nothing.

use crate::limits::Limit;
use crate::via::Via;
use weft_model::reason::{Code, Phase};
use weft_net::metered::Handle;

/// Reports refusals as they happen. Never ends.
pub(crate) async fn refused(via: &Via, meter: &Handle) {
    loop {
        meter.refused().await;
        report(via, meter);
    }
}

/// Reports those since the last time.
pub(crate) fn report(via: &Via, meter: &Handle) {
    let shared = &via.shared;
    let limit = shared.settings.direction(via.client.hop).http2_server.max_header_list_size;
    for _ in 0..meter.refusals() {
        let detail = format!("the header list is larger than {limit} bytes");
        let reason = via.client.reason(Code::HeadersTooLarge, Phase::Head).detail(detail);
        shared.reports.limits.reached(Limit::HeaderList, via.client.hop);
        shared.reports.unanswered(&reason, via.client.addr);
    }
}
