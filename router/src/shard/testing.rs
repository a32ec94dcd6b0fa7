//! A source without a second shard, for tests that need a driver but lose no shard. Compiled for tests only.

use std::marker::PhantomData;

use super::{PlannedShard, ShardError, ShardLink, ShardSource};
use crate::request::{Limits, ShardInfo};

pub(crate) struct OnlyOne<L>(PhantomData<fn() -> L>);

impl<L: ShardLink> ShardSource for OnlyOne<L> {
    type Link = L;

    fn replace(&self, _pid: u32, _reason: &str) -> bool {
        false
    }

    fn next(&self, _lost: u32) -> impl Future<Output = Result<PlannedShard<L>, ShardError>> + Send + 'static {
        std::future::ready(Err(ShardError::GivenUp))
    }

    fn serving(&self, _pid: u32) {}
}

/// What `driver::start` takes, for a link that nobody replaces.
pub(crate) fn only_one<L: ShardLink>(
    link: L,
    info: ShardInfo,
    limits: Limits,
) -> (OnlyOne<L>, PlannedShard<L>) {
    (OnlyOne(PhantomData), PlannedShard { link, info, limits, pid: 1 })
}
