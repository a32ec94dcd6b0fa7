//! The other programs of this installation: where they are, and running one in place of this one.
//!
//! Called by `launch` for shard and router and by `main` for the subcommand that another program carries out. Knows
//! them by name and arguments alone.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::error::LauncherError;
use crate::supervise;

/// A program that belongs to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Companion {
    Shard,
    Router,
    Quantizer,
}

/// Arguments for a program, handed on as they are.
#[derive(Debug, Clone, clap::Args)]
pub struct PassedOn {
    /// See `text-generation-launcher quantize --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    pub arguments: Vec<OsString>,
}

impl Companion {
    fn name(self) -> &'static str {
        match self {
            Self::Shard => "text-generation-shard",
            Self::Router => "text-generation-router",
            Self::Quantizer => "text-generation-quantizer",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Shard => "QUERN_SHARD_BIN",
            Self::Router => "QUERN_ROUTER_BIN",
            Self::Quantizer => "QUERN_QUANTIZER_BIN",
        }
    }

    /// Its file: named by its variable, beside this program, or on PATH.
    ///
    /// # Errors
    /// [`LauncherError::ArgumentValidation`] when it is nowhere.
    pub fn find(self) -> Result<PathBuf, LauncherError> {
        let own = std::env::current_exe().ok();
        let named = std::env::var_os(self.variable());
        let found = supervise::find_program(self.name(), named, own.as_deref(), std::env::var_os("PATH"));
        found.ok_or_else(|| {
            LauncherError::argument(format!(
                "{} is neither beside {} nor on PATH. Build or install the programs together",
                self.name(),
                own.unwrap_or_default().display()
            ))
        })
    }

    /// Becomes this program; returns only when that fails.
    pub fn become_it(self, passed_on: &PassedOn) -> LauncherError {
        let path = match self.find() {
            Ok(path) => path,
            Err(error) => return error,
        };
        let error = Command::new(&path).args(&passed_on.arguments).exec();
        LauncherError::argument(format!("{} cannot be run: {error}", path.display()))
    }
}
