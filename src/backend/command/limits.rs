//! The options of `serve` that set limits, and names that are allowed, each with a value. In: a name and a value. Out: a changed
//! configuration, or the option and what is wrong with its value.

use std::ffi::OsString;
use std::time::Duration;

use crate::protocol::handshake::{Network, check_allowed_host, check_allowed_origin, read_public_url};
use crate::server::Config;

use super::values::{Failure, at_least, positive, read_name};

/// A smaller message holds no request.
const MIN_MESSAGE_BYTES: usize = 256;

/// The names, without the dashes.
pub(super) const NAMES: &[&str] = &[
    "max-port-attempts",
    "max-connections",
    "max-connections-per-address",
    "trusted-proxy",
    "rate-limit",
    "idle-timeout",
    "max-message",
    "allow-host",
    "allow-origin",
    "public-url",
];

/// Sets a limit or a name.
///
/// # Errors
/// When the value is not valid.
pub(super) fn set(config: &mut Config, name: &str, value: &OsString) -> Result<(), Failure> {
    let option = format!("--{name}");
    match name {
        "max-port-attempts" => config.max_port_attempts = at_least(1, &option, value)?,
        "max-connections" => config.max_connections = at_least(1, &option, value)?,
        "max-connections-per-address" => config.max_connections_per_address = at_least(1, &option, value)?,
        "trusted-proxy" => {
            let text = value.to_string_lossy().into_owned();
            if text.parse::<Network>().is_err() {
                let what = "is not an address or a network, like 127.0.0.1 or 10.0.0.0/8";
                return Err(format!("{option}: {text:?} {what}").into());
            }
            config.trusted_proxies.push(text);
        }
        "rate-limit" => {
            let (requests, window) = rate_limit(&value.to_string_lossy())?;
            config.limits.rate_max_requests = requests;
            config.limits.rate_window = window;
        }
        "idle-timeout" => config.limits.idle_timeout = positive(&option, value)?,
        "max-message" => config.limits.max_message_bytes = at_least(MIN_MESSAGE_BYTES, &option, value)?,
        "allow-host" => config.allow_hosts.push(read_name(&option, value, check_allowed_host)?),
        "allow-origin" => config.allow_origins.push(read_name(&option, value, check_allowed_origin)?),
        "public-url" => config.public_url = Some(read_name(&option, value, read_public_url)?),
        _ => debug_assert!(false, "{name} is not in the list of names"),
    }
    Ok(())
}

/// `N` or `N/MS`.
fn rate_limit(text: &str) -> Result<(u32, Duration), Failure> {
    let (requests, window_ms) = text.split_once('/').unwrap_or((text, "1000"));
    match (requests.parse(), window_ms.parse()) {
        (Ok(requests @ 1..), Ok(window_ms @ 1_u32..)) => {
            Ok((requests, Duration::from_millis(window_ms.into())))
        }
        _ => Err(format!("--rate-limit: {text:?} is not N or N/MS, like 100/1000").into()),
    }
}
