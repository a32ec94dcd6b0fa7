//! A launch from parsed arguments to the end of serving: check, find the model, check again, run.
//!
//! Called by `main`. The order is the point: whatever can be refused is refused before anything is
//! fetched, loaded or spawned.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

use crate::args::{self, Args, Secret, ServerArgs, TgiCompat};
use crate::checks::{self, DeviceCount};
use crate::environment;
use crate::error::LauncherError;
use crate::model::hub::{self, CacheVariables, HubModel, HubSettings};
use crate::model::{ModelFacts, ModelSource, Weights, read_folder, starter};
use crate::programs::Companion;
use crate::supervise::{self, Launch, Program, Resolved, SocketFolder, StopSignals};

/// Serves until a signal or a failure. `without_effect` names set flags that do nothing.
///
/// # Errors
/// The reason why nothing is served (any more).
pub async fn serve(args: &Args, without_effect: &[String]) -> Result<(), LauncherError> {
    let failed =
        |error: std::io::Error| LauncherError::argument(format!("signals cannot be handled: {error}"));
    let mut signals = StopSignals::listen().map_err(failed)?;
    if args.env {
        info!("{}", environment::report());
        if is_report_alone(args) {
            return Ok(());
        }
    }
    info!("{args:?}");
    for flag in without_effect {
        warn!("`--{flag}` has no effect in this release");
    }
    let address = check_arguments(args)?;
    let programs = (Companion::Shard.find()?, Companion::Router.find()?);
    let (folder, model_name) = tokio::select! {
        found = find_model(args) => found?,
        // As with TGI: stopped while downloading is stopped, not failed.
        () = signals.next() => return Ok(()),
    };
    let facts = read_folder(&folder, Weights::of(&args.model))
        .map_err(|reason| LauncherError::argument(format!("`model_id`: {reason}")))?;
    checks::check_model(&facts, args.model.quantize, &args.limits)?;
    let given = args.model.shard_uds_path.as_deref();
    let sockets = SocketFolder::prepare(given, &std::env::temp_dir(), std::process::id())?;
    let resolved = Resolved { folder, model_name, address, uds_base: sockets.base().to_path_buf() };
    supervise::run(&launch(args, &resolved, programs), &mut signals).await
}

/// `--env` without a model is for a bug report; a deployment's launch line may have it and goes on, as with TGI.
fn is_report_alone(args: &Args) -> bool {
    args.model.model_id.is_none() && args.server.tgi_compat == TgiCompat::Fixed
}

/// Everything that flags alone can get wrong, and the port.
fn check_arguments(args: &Args) -> Result<IpAddr, LauncherError> {
    checks::check_limits(&args.limits)?;
    args.server.api_key.iter().try_for_each(|key| checks::check_api_key(key.expose()))?;
    check_is_file("api_key_file", args.server.api_key_file.as_deref())?;
    checks::check_sharding(&args.model, DeviceCount::from_variables(|name| std::env::var(name).ok()))?;
    check_is_file("tokenizer_config_path", args.server.tokenizer_config_path.as_deref())?;
    let (address, replaced) = checks::listen_address(&args.server.hostname);
    if replaced {
        warn!("Invalid hostname, defaulting to 0.0.0.0");
    }
    check_port(SocketAddr::new(address, args.server.port))?;
    Ok(address)
}

fn check_is_file(flag: &str, path: Option<&Path>) -> Result<(), LauncherError> {
    match path {
        Some(path) if !path.is_file() => {
            Err(LauncherError::argument(format!("`{flag}`: there is no file {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Binds the address for a moment: nothing is loaded for a server that could not listen.
fn check_port(address: SocketAddr) -> Result<(), LauncherError> {
    TcpListener::bind(address).map(drop).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::AddrInUse => "it is in use by another process".to_owned(),
            _ => error.to_string(),
        };
        let port = address.port();
        LauncherError::argument(format!(
            "`port`: cannot listen on port {port} of {}: {reason}. Set another --port or --hostname",
            address.ip()
        ))
    })
}

/// Folder and name of the model.
async fn find_model(args: &Args) -> Result<(PathBuf, String), LauncherError> {
    let id = args.model.model_id.as_deref();
    let source = ModelSource::of(id)?;
    let name = id.unwrap_or(starter::NAME).to_owned();
    info!("Starting check and download process for {name}");
    let folder = match source {
        ModelSource::Folder(folder) => folder,
        ModelSource::Hub(id) => from_hub(id, args).await?,
        ModelSource::Starter => {
            let no_home =
                || LauncherError::argument("no --model-id, and neither HOME nor XDG_CACHE_HOME is set");
            let cache = CacheVariables::from_environment().user_cache().ok_or_else(no_home)?;
            starter::prepare(&cache, args.json_output).await?
        }
    };
    info!("Successfully downloaded weights for {name}");
    Ok((folder, name))
}

/// The snapshot of a model of the Hub, fetched as far as it is not in the cache. What the configuration
/// alone shows to be impossible is refused before any weight is fetched.
async fn from_hub(id: String, args: &Args) -> Result<PathBuf, LauncherError> {
    let settings = HubSettings::from_environment(args.model.huggingface_hub_cache.as_deref());
    let on_terminal = !args.json_output && std::io::stderr().is_terminal();
    let model = HubModel {
        id,
        revision: args.model.revision.clone(),
        weights: Weights::of(&args.model),
        on_terminal,
    };
    let (quantize, limits) = (args.model.quantize, args.limits.clone());
    let check = move |facts: &ModelFacts| checks::check_model(facts, quantize, &limits);
    let prepared = tokio::task::spawn_blocking(move || hub::prepare(&model, &settings, check)).await;
    prepared.unwrap_or_else(|error| Err(LauncherError::Download(error.to_string())))
}

fn launch(args: &Args, resolved: &Resolved, (shard, router): (PathBuf, PathBuf)) -> Launch {
    // Not on the command line, which everybody on the machine can read.
    let keys: Vec<&str> = args.server.api_key.iter().map(Secret::expose).collect();
    let keys = (!keys.is_empty()).then(|| ("API_KEY", OsString::from(keys.join("\n"))));
    Launch {
        shard: Program {
            path: shard,
            arguments: supervise::shard_arguments(args, resolved),
            hidden: hidden(),
            environment: Vec::new(),
        },
        router: Program {
            path: router,
            arguments: supervise::router_arguments(args, resolved),
            hidden: hidden(),
            environment: keys.into_iter().collect(),
        },
        socket: resolved.socket(0),
        grace: Duration::from_secs(args.server.graceful_termination_timeout),
        max_shard_restarts: args.recovery.max_shard_restarts,
        json_output: args.json_output,
        welcome: welcome(&resolved.model_name, resolved.address, &args.server),
    }
}

/// Variables that the children do not see: flags that the launcher has read, and the Hub's tokens.
fn hidden() -> Vec<OsString> {
    args::environment_names().into_iter().chain(hub::SECRET_VARIABLES.map(OsString::from)).collect()
}

/// One line with a request to try, for whoever started the server by hand.
fn welcome(model_name: &str, address: IpAddr, server: &ServerArgs) -> String {
    let reachable = match address {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    let url = format!("http://{}", SocketAddr::new(reachable, server.port));
    let has_key = !server.api_key.is_empty() || server.api_key_file.is_some();
    let authorization = if has_key { " -H \"Authorization: Bearer $API_KEY\"" } else { "" };
    format!(
        "Serving {model_name}. Try: curl {url}/v1/chat/completions -H 'Content-Type: application/json'{authorization} \
         -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"What is the capital of France?\"}}],\"max_tokens\":30,\"temperature\":0}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_from;

    #[test]
    fn the_curl_line_reaches_the_server() {
        let cases = [
            ("0.0.0.0", "--port=8080", "curl http://127.0.0.1:8080/v1/chat/completions", false),
            ("::", "--port=3000", "curl http://[::1]:3000/v1/chat/completions", false),
            ("10.0.0.7", "--api-key=s3cret", "curl http://10.0.0.7:3000/v1/chat/completions", true),
        ];
        for (address, flag, part, has_key) in cases {
            let server = parse_from(["launcher", flag]).expect("flags parse").cli.args.server;
            let line = welcome("m", address.parse().expect("an address"), &server);
            assert!(line.contains(part), "{line}");
            assert_eq!(line.contains("Bearer $API_KEY"), has_key, "{line}");
            assert!(!line.contains("s3cret") && !line.contains('\n'));
            let body = line.split(" -d '").nth(1).and_then(|rest| rest.strip_suffix('\'')).expect("a body");
            assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
        }
    }

    #[test]
    fn a_taken_port_is_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = taken.local_addr().expect("an address");
        let message = check_port(address).expect_err("taken").to_string();
        assert!(message.contains("in use") && message.contains(&address.port().to_string()), "{message}");
        drop(taken);
        assert_eq!(check_port(address), Ok(()));
    }
}
