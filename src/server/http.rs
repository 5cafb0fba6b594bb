//! What a request gets that is not an upgrade: the pages that the configuration turned on, else 426.

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use crate::protocol::handshake::{self, AccessRules, Head, Refusal};

use super::Shared;

/// Answers an ordinary request.
pub(super) fn answer(
    shared: &Shared,
    head: &Head<'_>,
    path: &str,
    rules: &AccessRules<'_>,
) -> Response<String> {
    if let Err(refusal) = handshake::check_host(head, rules) {
        return refuse(refusal);
    }
    let config = &shared.config;
    let known = match path {
        "/healthz" => config.serve_health,
        "/metrics" => config.serve_metrics,
        "/" => config.serve_console,
        "/client.js" => config.serve_client || config.serve_console,
        "/client.d.ts" | "/react.js" | "/react.d.ts" => config.serve_client,
        _ => false,
    };
    if !known {
        return refuse(Refusal::NotAnUpgrade);
    }
    if let Some(response) = refuse_method(head) {
        return response;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok"),
        "/" => console(),
        "/client.js" => typed(JAVASCRIPT, include_str!("../web/client.js")),
        "/react.js" => typed(JAVASCRIPT, include_str!("../web/react.js")),
        "/client.d.ts" => text(StatusCode::OK, include_str!("../web/client.d.ts")),
        "/react.d.ts" => text(StatusCode::OK, include_str!("../web/react.d.ts")),
        _ if !handshake::is_authorized(head, rules.token) => refuse(Refusal::Token),
        _ => typed("text/plain; version=0.0.4; charset=utf-8", &shared.stats().prometheus()),
    }
}

/// The answer to a request that does more than read; `None` for one that only reads.
pub(super) fn refuse_method(head: &Head<'_>) -> Option<Response<String>> {
    if matches!(head.method, "GET" | "HEAD") {
        return None;
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are served");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(response)
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The console. It holds no secret, so it is shown without a token, and asks for one when the server does. Nothing runs
/// in it but its own script and the client of this server.
fn console() -> Response<String> {
    let mut nonce = [0; 16];
    if getrandom::fill(&mut nonce).is_err() {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "The system gives no random bytes");
    }
    let nonce = handshake::base64(&nonce);
    let page = include_str!("../web/console.html").replace("{{nonce}}", &nonce);
    let mut response = typed("text/html; charset=utf-8", &page);
    let policy = format!(
        "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn typed(kind: &'static str, body: &str) -> Response<String> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A refusal as a response.
pub(super) fn refuse(refusal: Refusal) -> Response<String> {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = text(status, refusal.body());
    let headers = response.headers_mut();
    match refusal {
        Refusal::NotAnUpgrade => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade, close"));
        }
        Refusal::Version => {
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        Refusal::Token => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// A page of plain text. A browser is told to take it as nothing else, and to keep no copy. It ends the connection:
/// hyper's own switch for that would also put `close` into the answer to an upgrade, which clients then refuse.
pub(super) fn text(status: StatusCode, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
