//! In-process tests of the routes.
