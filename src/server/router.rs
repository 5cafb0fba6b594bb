//! From a channel's name to its handler. Handlers are added and removed while requests run: each batch of requests uses one
//! snapshot. `C` is what a handler is given beside the payload.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::session::Request;

/// The future of a handler.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<Payload, WireError>> + Send>>;

/// A channel's handler.
pub(super) struct Route<C> {
    handler: Box<dyn Fn(Payload, C) -> Running + Send + Sync>,
    /// The channel's own deadline, if it has one.
    pub(super) timeout: Option<Duration>,
}

impl<C> Route<C> {
    pub(super) fn new<F, Fut, R>(timeout: Option<Duration>, handler: F) -> Route<C>
    where
        F: Fn(Payload, C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        let handler = Box::new(move |payload, context| -> Running {
            let result = handler(payload, context);
            Box::pin(async move { result.await.map(Into::into) })
        });
        Route { handler, timeout }
    }

    pub(super) fn call(&self, payload: Payload, context: C) -> Running {
        (self.handler)(payload, context)
    }
}

/// The handlers by channel.
pub(super) type Routes<C> = HashMap<String, Arc<Route<C>>>;

/// The handlers for a batch of requests. Most batches are for one channel, so the last route found is kept.
pub(super) struct Lookup<'a, C> {
    routes: &'a Routes<C>,
    last: Option<(&'a str, &'a Route<C>)>,
}

impl<'a, C> Lookup<'a, C> {
    pub(super) fn new(routes: &'a Routes<C>) -> Lookup<'a, C> {
        Lookup { routes, last: None }
    }

    /// The name of a request's channel, and its handler.
    pub(super) fn find(&mut self, request: &Request) -> Option<(&'a str, &'a Route<C>)> {
        if let Some((channel, _)) = self.last
            && channel == request.raw_channel()
        {
            return self.last;
        }
        let (channel, route) = self.routes.get_key_value(request.channel()?.as_ref())?;
        let found = Some((channel.as_str(), route.as_ref()));
        // A name that is written with escapes cannot be compared as it is.
        if channel == request.raw_channel() {
            self.last = found;
        }
        found
    }
}

pub(super) struct Router<C> {
    routes: RwLock<Arc<Routes<C>>>,
}

impl<C> Router<C> {
    pub(super) fn new() -> Router<C> {
        Router { routes: RwLock::default() }
    }

    pub(super) fn snapshot(&self) -> Arc<Routes<C>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn insert(&self, channel: &str, route: Route<C>) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut routes).insert(channel.to_owned(), Arc::new(route));
    }

    pub(super) fn remove(&self, channel: &str) -> bool {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut routes).remove(channel).is_some()
    }
}
