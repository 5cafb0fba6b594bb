//! From a channel's name to its handler. Handlers come and go while requests run: each batch of requests looks at one
//! snapshot.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::session::{Request, RequestId};

use super::hub::Client;
use super::{ClientId, Server};

/// A handler at work.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<Payload, WireError>> + Send>>;

/// What is known of a channel.
pub(super) struct Route {
    handler: Box<dyn Fn(Payload, RequestContext) -> Running + Send + Sync>,
    /// The channel's own deadline.
    pub(super) timeout: Option<Duration>,
}

impl Route {
    pub(super) fn new<F, Fut, R>(timeout: Option<Duration>, handler: F) -> Route
    where
        F: Fn(Payload, RequestContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        let handler = Box::new(move |payload, context| -> Running {
            let result = handler(payload, context);
            Box::pin(async move { result.await.map(Into::into) })
        });
        Route { handler, timeout }
    }

    pub(super) fn call(&self, payload: Payload, context: RequestContext) -> Running {
        (self.handler)(payload, context)
    }
}

/// The handlers by channel.
pub(super) type Routes = HashMap<String, Arc<Route>>;

/// The handlers as a batch of requests finds them. Requests that come together mostly are for one channel: its route is
/// kept at hand.
pub(super) struct Lookup<'a> {
    routes: &'a Routes,
    last: Option<(&'a str, &'a Route)>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(routes: &'a Routes) -> Lookup<'a> {
        Lookup { routes, last: None }
    }

    /// The name of a request's channel, and what is known of it.
    pub(super) fn find(&mut self, request: &Request) -> Option<(&'a str, &'a Route)> {
        if let Some((channel, _)) = self.last
            && channel == request.raw_channel()
        {
            return self.last;
        }
        let (channel, route) = self.routes.get_key_value(request.channel()?.as_ref())?;
        let found = Some((channel.as_str(), route.as_ref()));
        // What is written with escapes is not compared with names.
        if channel == request.raw_channel() {
            self.last = found;
        }
        found
    }
}

#[derive(Default)]
pub(super) struct Router {
    routes: RwLock<Arc<Routes>>,
}

impl Router {
    pub(super) fn snapshot(&self) -> Arc<Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn insert(&self, channel: &str, route: Route) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut routes).insert(channel.to_owned(), Arc::new(route));
    }

    pub(super) fn remove(&self, channel: &str) -> bool {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut routes).remove(channel).is_some()
    }
}

/// Whose request a handler answers (specification, "RequestContext").
#[derive(Clone)]
pub struct RequestContext {
    /// The client that asked.
    pub client_id: ClientId,
    request_id: RequestId,
    client: Arc<Client>,
}

impl RequestContext {
    pub(super) fn new(client: Arc<Client>, request_id: RequestId) -> RequestContext {
        RequestContext { client_id: client.id, request_id, client }
    }

    /// The request's id, as the client chose it.
    pub fn request_id(&self) -> String {
        self.request_id.to_string()
    }

    /// Sends an event to the client that asked. What a handler emits before it returns arrives before its response.
    pub fn emit(&self, channel: &str, payload: impl Into<Payload>) {
        let server = self.server();
        server.emit_to(self.client_id, channel, payload);
    }

    /// The server, for what concerns other clients too. A handler that takes it from here, instead of owning one,
    /// does not keep the server alive.
    pub fn server(&self) -> Server {
        self.client.server()
    }
}

impl std::fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestContext")
            .field("client_id", &self.client_id)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}
