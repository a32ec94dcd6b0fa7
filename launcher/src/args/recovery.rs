//! What happens when the shard fails or hangs. Part of `Args`; the router does the watching.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::values::seconds;

/// Flags about a shard that does not answer any more.
#[derive(Debug, Clone, ClapArgs)]
pub struct RecoveryArgs {
    /// How often in a row a failed shard is replaced, its requests going on where they were; 0 = never: its
    /// end is the server's, as with TGI. An answer of the new shard starts the count again.
    #[arg(long, env = "QUERN_MAX_SHARD_RESTARTS", default_value_t = 5)]
    pub max_shard_restarts: u32,
    /// Seconds that one step may take before the shard counts as hung and is replaced; 0 = for ever.
    /// By default 60, on a CPU and 0.25 more for each token of the step.
    #[arg(long, env = "QUERN_SHARD_STEP_TIMEOUT", value_parser = seconds)]
    pub shard_step_timeout: Option<Duration>,
    /// Seconds without work after which one token is computed to see that the shard still can; 0 = never.
    #[arg(long, env = "QUERN_CANARY_INTERVAL", value_parser = seconds, default_value = "30")]
    pub canary_interval: Duration,
}
