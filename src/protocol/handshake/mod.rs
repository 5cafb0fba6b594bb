//! The HTTP request that opens a connection. Input: the head of a request, parsed by the caller. Output: the upgrade
//! that was accepted, or why the request is refused.

mod access;
#[cfg(feature = "client")]
mod answer;
mod forwarded;
mod head;
mod names;
mod sha1;
mod upgrade;

pub use access::{
    AccessRules, advice, check_host, check_origin, same_token, sends_token, sends_wrong_token, sent_token,
};
#[cfg(feature = "pages")]
pub use access::{is_authorized, may_see};
#[cfg(feature = "client")]
pub use answer::{FirstFrame, check_answer, first_frame};
pub use forwarded::{AddressKey, Network, client_address};
pub use head::{Head, Refusal};
pub use names::{NeverMatches, check_allowed_host, check_allowed_origin, read_public_url};
pub use sha1::sha1;
pub use upgrade::{Accepted, SUBPROTOCOL, accept_key, base64, check};

#[cfg(test)]
mod tests;
