//! Join files: everything a workload needs for its first contact, so that it trusts nobody on first use.
//!
//! `weft token` writes one, the proxy reads it. It holds a bearer token, so it is written with mode 0600 and
//! refused when others could have read it.

use crate::private::{self, FileError, Readers};
use crate::token::Token;
use serde::{Deserialize, Serialize};
use std::path::Path;
use weft_model::identity::Id;
use weft_model::name::DnsName;

/// What a join file says.
#[derive(Clone, Debug)]
pub struct JoinFile {
    /// The roots to trust, PEM.
    pub trust_anchors: String,
    /// Where the control plane listens, `host:port`.
    pub control_address: String,
    /// The identity that the control plane must prove.
    pub control_name: DnsName,
    /// Who the bearer may become.
    pub identity: Id,
    /// The proof for the first Certify.
    pub token: Token,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    trust_anchors: String,
    control_address: String,
    control_name: String,
    identity: String,
    token: String,
}

impl JoinFile {
    /// Reads a join file. Blocks on the disk.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = private::read(path, Readers::Owner)?;
        let bad = |problem: String| FileError::content(path, problem);
        // The position says enough; the message itself could quote the token.
        let text: Text = serde_json::from_str(&text).map_err(|error| {
            bad(format!("not a join file (line {}, column {})", error.line(), error.column()))
        })?;
        Ok(Self {
            control_name: text.control_name.parse().map_err(|e| bad(format!("control_name: {e}")))?,
            identity: text.identity.parse().map_err(|e| bad(format!("identity: {e}")))?,
            trust_anchors: text.trust_anchors,
            control_address: text.control_address,
            token: Token::from(text.token.into_bytes()),
        })
    }

    /// Writes the file with mode 0600 in place of any other of that name. Blocks on the disk.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let bad = |problem: &str| FileError::content(path, problem);
        let token = std::str::from_utf8(self.token.reveal()).map_err(|_| bad("the token is not text"))?;
        let text = Text {
            trust_anchors: self.trust_anchors.clone(),
            control_address: self.control_address.clone(),
            control_name: self.control_name.to_string(),
            identity: self.identity.to_string(),
            token: token.to_owned(),
        };
        let json = serde_json::to_string_pretty(&text).map_err(|_| bad("it cannot be written as JSON"))?;
        private::replace(path, &(json + "\n"))
    }
}
