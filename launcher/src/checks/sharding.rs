//! `--sharded` and `--num-shard` against the devices of the machine, with TGI's texts.
//!
//! TGI shards over every visible GPU when nothing is said; here nothing said means one shard.

use crate::args::ModelArgs;
use crate::error::LauncherError;

/// How many CUDA devices the container runtime or the user made visible; `None` when nothing says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceCount(pub Option<usize>);

impl DeviceCount {
    /// Counts as TGI counts: the first of the variables that is set, comma separated.
    ///
    /// `variable` looks a name up; `all` and `void` count as unknown.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let names = ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"];
        let listed = names.into_iter().find_map(variable);
        Self(listed.filter(|list| list != "all" && list != "void").map(|list| count_items(&list)))
    }
}

fn count_items(list: &str) -> usize {
    list.split(',').filter(|item| !item.trim().is_empty()).count()
}

/// Refuses what needs more than the one shard of this release.
///
/// # Errors
/// [`LauncherError::NotEnoughCudaDevices`] or [`LauncherError::ArgumentValidation`], as TGI has them.
pub fn check_sharding(model: &ModelArgs, devices: DeviceCount) -> Result<(), LauncherError> {
    match (model.sharded, model.num_shard) {
        (_, Some(0)) => Err(LauncherError::argument("`num_shard` cannot be < 1")),
        (Some(true), Some(1)) => Err(LauncherError::argument("`sharded` is true but `num_shard` <= 1")),
        (Some(true), None) => Err(not_enough(devices.0.unwrap_or(0))),
        (_, Some(n)) if n > 1 => Err(LauncherError::argument(format!(
            "`num_shard` is {n}, but this release runs the model in one shard. Leave --num-shard out"
        ))),
        _ => Ok(()),
    }
}

fn not_enough(found: usize) -> LauncherError {
    if found <= 1 {
        return LauncherError::NotEnoughCudaDevices(format!(
            "`sharded` is true but only found {found} CUDA devices"
        ));
    }
    LauncherError::argument(format!(
        "`sharded` is true for {found} devices, but this release runs the model in one shard. Leave --sharded out"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_from;

    #[test]
    fn shard_counts() {
        let cases = [
            ("", None, None),
            ("", Some(4), None),
            ("--num-shard 1", None, None),
            ("--sharded false", Some(4), None),
            ("--sharded false --num-shard 1", None, None),
            ("--num-shard 0", None, Some("ArgumentValidation(\"`num_shard` cannot be < 1\")")),
            (
                "--sharded true --num-shard 1",
                None,
                Some("ArgumentValidation(\"`sharded` is true but `num_shard` <= 1\")"),
            ),
            (
                "--sharded true",
                None,
                Some("NotEnoughCUDADevices(\"`sharded` is true but only found 0 CUDA devices\")"),
            ),
            (
                "--sharded true",
                Some(1),
                Some("NotEnoughCUDADevices(\"`sharded` is true but only found 1 CUDA devices\")"),
            ),
            (
                "--sharded true",
                Some(2),
                Some(
                    "ArgumentValidation(\"`sharded` is true for 2 devices, but this release runs the model in one \
                     shard. Leave --sharded out\")",
                ),
            ),
            (
                "--num-shard 2",
                Some(2),
                Some(
                    "ArgumentValidation(\"`num_shard` is 2, but this release runs the model in one shard. \
                     Leave --num-shard out\")",
                ),
            ),
        ];
        for (flags, devices, expected) in cases {
            let argv = std::iter::once("launcher").chain(flags.split_whitespace());
            let model = parse_from(argv).expect("flags parse").cli.args.model;
            let error = check_sharding(&model, DeviceCount(devices)).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), expected, "{flags} on {devices:?}");
        }
    }

    #[test]
    fn device_variables() {
        type Variables = &'static [(&'static str, &'static str)];
        let cases: [(Variables, Option<usize>); 5] = [
            (&[], None),
            (&[("CUDA_VISIBLE_DEVICES", "0,1,2"), ("NVIDIA_VISIBLE_DEVICES", "0")], Some(3)),
            (&[("NVIDIA_VISIBLE_DEVICES", "0")], Some(1)),
            (&[("NVIDIA_VISIBLE_DEVICES", "all")], None),
            (&[("CUDA_VISIBLE_DEVICES", "")], Some(0)),
        ];
        for (variables, expected) in cases {
            let lookup = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(DeviceCount::from_variables(lookup), DeviceCount(expected), "{variables:?}");
        }
    }
}
