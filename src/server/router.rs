//! From a channel's name to its handler, through its guards. Handlers and guards are added while requests run: each batch of
//! requests uses one snapshot. A channel without guards costs nothing for them.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::session::Request;

/// The future of a handler.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<Payload, WireError>> + Send>>;

type Handler<C> = Arc<dyn Fn(Payload, C) -> Running + Send + Sync>;

/// What a guard returns.
pub enum Verdict {
    /// Whether the request may go on.
    Now(Result<(), WireError>),
    /// The same, later.
    Later(Pin<Box<dyn Future<Output = Result<(), WireError>> + Send>>),
}

/// A function that can refuse a request before its handler is called.
pub(super) type Check<C> = Arc<dyn Fn(C, Arc<str>) -> Verdict + Send + Sync>;

/// A channel's handler.
pub(super) struct Route<C> {
    handler: Handler<C>,
    /// The channel's own deadline, if it has one.
    pub(super) timeout: Option<Duration>,
    /// The guards of the channel, if it has any.
    guards: Option<Arc<Guards<C>>>,
}

/// A channel's guards, in the order in which they were added.
struct Guards<C> {
    channel: Arc<str>,
    checks: Vec<Check<C>>,
}

impl<C: Clone + Send + 'static> Route<C> {
    pub(super) fn new<F, Fut, R>(timeout: Option<Duration>, handler: F) -> Route<C>
    where
        F: Fn(Payload, C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        let handler = Arc::new(move |payload, context| -> Running {
            let result = handler(payload, context);
            Box::pin(async move { result.await.map(Into::into) })
        });
        Route { handler, timeout, guards: None }
    }

    /// Calls the handler, after its guards. What holds for the handler's future, such as its deadline, holds for them too.
    pub(super) fn call(&self, payload: Payload, context: C) -> Running {
        match &self.guards {
            None => (self.handler)(payload, context),
            Some(guards) => Box::pin(guarded(guards.clone(), self.handler.clone(), payload, context)),
        }
    }

    /// The same route with those of all guards that are for this channel.
    fn guarded(&self, channel: &str, all: &[(Box<str>, Check<C>)]) -> Arc<Route<C>> {
        let own = all.iter().filter(|(prefix, _)| channel.starts_with(&**prefix));
        let checks: Vec<_> = own.map(|(_, check)| check.clone()).collect();
        let guards = (!checks.is_empty()).then(|| Arc::new(Guards { channel: channel.into(), checks }));
        Arc::new(Route { handler: self.handler.clone(), timeout: self.timeout, guards })
    }
}

async fn guarded<C: Clone>(
    guards: Arc<Guards<C>>,
    handler: Handler<C>,
    payload: Payload,
    context: C,
) -> Result<Payload, WireError> {
    for check in &guards.checks {
        match check(context.clone(), guards.channel.clone()) {
            Verdict::Now(verdict) => verdict?,
            Verdict::Later(verdict) => verdict.await?,
        }
    }
    handler(payload, context).await
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
    table: RwLock<Table<C>>,
}

struct Table<C> {
    routes: Arc<Routes<C>>,
    /// The guards of the channels that start with a text, in the order in which they were added.
    guards: Vec<(Box<str>, Check<C>)>,
}

impl<C: Clone + Send + 'static> Router<C> {
    pub(super) fn new() -> Router<C> {
        Router { table: RwLock::new(Table { routes: Arc::default(), guards: Vec::new() }) }
    }

    pub(super) fn snapshot(&self) -> Arc<Routes<C>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).routes.clone()
    }

    fn change(&self) -> RwLockWriteGuard<'_, Table<C>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, channel: &str, route: Route<C>) {
        let mut table = self.change();
        let route = route.guarded(channel, &table.guards);
        Arc::make_mut(&mut table.routes).insert(channel.to_owned(), route);
    }

    pub(super) fn remove(&self, channel: &str) -> bool {
        Arc::make_mut(&mut self.change().routes).remove(channel).is_some()
    }

    /// Adds a guard for the channels that start with a text, also for those that get a handler later.
    pub(super) fn guard(&self, prefix: &str, check: Check<C>) {
        let mut table = self.change();
        let Table { routes, guards } = &mut *table;
        guards.push((prefix.into(), check));
        for (channel, route) in Arc::make_mut(routes) {
            *route = route.guarded(channel, guards);
        }
    }
}
