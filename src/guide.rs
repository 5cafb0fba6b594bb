//! The guide: what the items of this crate do together. It exists in the documentation only.
//!
//! | page | for |
//! |---|---|
//! | [`wire`] | writing a client: the protocol |
//! | [`channels`] | using the backend: the families of channels |
//! | [`clients`] | calling a server from JavaScript, React, TypeScript or Rust |
//! | [`embedding`] | using the server in a program |
//! | [`apps`] | users, typed payloads, errors and groups of an app |
//! | [`operations`] | running the command |
//! | [`limits`] | every limit with its default |
//! | [`budgets`] | what one client can cost: how the limits work together |
//! | [`security`] | threat model, promises, reporting |
//! | [`architecture`] | changing the code |
//! | [`benchmarks`] | speed and memory beside other servers |

/// Declares a page. In Markdown the first definition of a link counts, so that links go to modules here, and to files where
/// a page is read as a file.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = include_str!("docs/links.md")]
        #[cfg_attr(feature = "backend", doc = include_str!("docs/links_backend.md"))]
        #[doc = include_str!($file)]
        pub mod $name {}
    };
}

page!(wire, "docs/wire.md");
page!(channels, "docs/channels.md");
page!(clients, "docs/clients.md");
page!(embedding, "docs/embedding.md");
page!(apps, "docs/apps.md");
page!(operations, "docs/operations.md");
page!(limits, "docs/limits.md");
page!(budgets, "docs/budgets.md");
page!(security, "docs/security.md");
page!(architecture, "docs/architecture.md");
page!(benchmarks, "docs/benchmarks.md");
