//! What a handler can do with its request: the methods of [`RequestContext`].

use crate::protocol::payload::Payload;

use super::shared::{RequestContext, Server};

impl RequestContext {
    /// The request's id, as the client chose it.
    ///
    /// ```
    /// # use switchboard::{Config, Payload, RequestContext, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_request("whoami", |_: Payload, cx: RequestContext| async move {
    ///     Ok(serde_json::json!({ "request": cx.request_id(), "client": cx.client_id.to_string() }))
    /// });
    /// ```
    pub fn request_id(&self) -> String {
        self.request_id.to_string()
    }

    /// Sends an event to the client that asked. What a handler emits before it returns arrives before its response.
    ///
    /// ```
    /// # use switchboard::{Config, Payload, RequestContext, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_request("import", |_: Payload, cx: RequestContext| async move {
    ///     for percent in [25, 50, 75] {
    ///         cx.emit("import:progress", serde_json::json!({ "percent": percent }));
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn emit(&self, channel: &str, payload: impl Into<Payload>) {
        if self.client.is_member() {
            self.client.shared.emit_to(std::slice::from_ref(&self.client), channel, &payload.into());
        }
    }

    /// The server, for events to other clients. A handler that takes it from here, instead of owning one, does not keep
    /// the server alive.
    ///
    /// ```
    /// # use switchboard::{Config, Payload, RequestContext, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_request("count", |_: Payload, cx: RequestContext| async move {
    ///     Ok(serde_json::json!(cx.server().client_count()))
    /// });
    /// ```
    pub fn server(&self) -> Server {
        Server { shared: self.client.shared.clone() }
    }
}
