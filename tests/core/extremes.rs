//! Settings at their extremes: each works, or is refused by name when the server starts. None panics.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::json;
use switchboard::{Config, HandlerError, Limits, Payload, RequestContext, Server};
use tokio::net::TcpStream;

use crate::support::socket::{Client, within};

const TOKEN: &str = "a token for a server with extreme settings";

/// Values at the ends of a type.
trait Extremes: Sized + 'static {
    const EXTREMES: &'static [Self];
}

impl Extremes for Duration {
    const EXTREMES: &'static [Duration] =
        &[Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(u64::MAX), Duration::MAX];
}

impl Extremes for Option<Duration> {
    const EXTREMES: &'static [Option<Duration>] =
        &[None, Some(Duration::ZERO), Some(Duration::from_nanos(1)), Some(Duration::MAX)];
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Extremes for $number {
            const EXTREMES: &'static [$number] = &[0, <$number>::MAX - 1, <$number>::MAX];
        })*
    };
}
numbers!(u16, u32, u64, usize);

/// Every field of a struct, so that a new one fails to compile until it is in the list; `others` have no extremes.
macro_rules! each_field {
    ($config:ident, $place:expr, $kind:ident { $($field:ident),* } others { $($(#[$on:meta])? $other:ident),* }) => {
        #[allow(dead_code)]
        fn complete(value: $kind) {
            let $kind { $($field: _,)* $($(#[$on])? $other: _,)* } = value;
        }
        $(for value in Extremes::EXTREMES {
            let mut $config = base();
            $place.$field = *value;
            check(stringify!($field), &format!("{value:?}"), $config).await;
        })*
    };
}

fn base() -> Config {
    Config::default().port(0).token(TOKEN)
}

/// Starts a server, authenticates with a message, sends a request, and stops; or the start fails with the field's name.
async fn check(field: &str, value: &str, config: Config) {
    let server = Server::new(config);
    server.on_request("echo", |payload: Payload, _: RequestContext| async {
        // A handler that is not ready at once needs timers to work.
        tokio::task::yield_now().await;
        Ok::<_, HandlerError>(payload)
    });
    let port = match server.start().await {
        Ok(port) => port,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{field} {value}");
            assert!(error.to_string().starts_with(&format!("{field} is ")), "{field} {value}: {error}");
            assert!(value != "None" && !value.contains("18446744073709551615"), "{field} {value}: {error}");
            return;
        }
    };
    within(&format!("{field} {value}"), async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async("ws://localhost/", stream).await.unwrap();
        let mut client = Client { socket, id: String::new() };
        for (channel, payload) in [("auth", json!({ "token": TOKEN })), ("echo", json!("x"))] {
            client.send("1", channel, payload).await;
            let mut answer = json!({});
            while answer["type"] != "response" {
                answer = client.next().await.unwrap_or_else(|code| panic!("{field} {value}: {code}"));
            }
            // Without messages there are still events.
            let is_allowed = answer["error"].is_null() || (field, value) == ("rate_max_requests", "0");
            assert!(is_allowed, "{field} {value}: {answer}");
        }
        tokio::join!(server.stop(), client.close_code());
    })
    .await;
}

#[tokio::test]
async fn every_limit_works_at_its_extremes_or_is_refused() {
    each_field!(config, config.limits, Limits {
        max_message_bytes, max_unauthenticated_message_bytes, rate_max_requests, rate_max_bytes, rate_window,
        max_in_flight, max_in_flight_bytes, handler_timeout, ping_interval, idle_timeout, auth_timeout, expiry_notice,
        max_auth_attempts, close_timeout, max_outbox_bytes, soft_outbox_bytes, soft_outbox_timeout, send_timeout
    } others {});
}

#[tokio::test]
async fn every_setting_works_at_its_extremes_or_is_refused() {
    each_field!(config, config, Config {
        max_port_attempts, max_connections, max_connections_per_address, max_connections_per_identity, max_unauthenticated, max_wrong_tokens,
        wrong_token_pause, max_buffered_bytes, memory_timeout, max_groups, max_groups_per_connection, max_handshakes, max_authentications, handshake_timeout, max_head_bytes
    } others {
        host, port, exact_port, allow_hosts, allow_origins, public_url, token, insecure, trusted_proxies, rate_by_address, rate_by_identity, same_user, limits,
        #[cfg(feature = "pages")] max_pages, #[cfg(feature = "pages")] max_open_pages,
        #[cfg(feature = "pages")] page_timeout, #[cfg(feature = "pages")] serve_health,
        #[cfg(feature = "pages")] serve_metrics, #[cfg(feature = "pages")] serve_console,
        #[cfg(feature = "pages")] serve_client, on_connection, on_disconnection, on_error
    });
}

#[cfg(feature = "pages")]
#[tokio::test]
async fn every_setting_of_pages_works_at_its_extremes_or_is_refused() {
    for value in usize::EXTREMES {
        check("max_pages", &format!("{value:?}"), Config { max_pages: *value, ..base() }).await;
        check("max_open_pages", &format!("{value:?}"), Config { max_open_pages: *value, ..base() }).await;
    }
    for value in Duration::EXTREMES {
        check("page_timeout", &format!("{value:?}"), Config { page_timeout: *value, ..base() }).await;
    }
}
