//! Running a node.

use std::io::IsTerminal;

use daemon::config::settings;
use daemon::{Plan, Settings};
use tracing::Level;

use crate::args::{self, Run};
use crate::output::{Failure, Outcome, print};

pub(crate) fn run(args: &Run) -> Outcome {
    let settings = effective(args)?;
    if args.print_config {
        return print(&settings.to_toml());
    }
    let plan = Plan::new(&settings).map_err(|e| Failure::said(e.to_string()))?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_max_level(level(settings.log.level))
        .with_target(false)
        // They would go to standard error, which is what fails.
        .log_internal_errors(false)
        .init();
    let program = std::env::args().next().unwrap_or_else(|| "starling".to_owned());
    daemon::run(&plan, &program).map_err(|e| Failure::said(e.to_string()))
}

/// The file with the flags over it.
fn effective(args: &Run) -> Result<Settings, Failure> {
    let mut settings = match &args.config {
        Some(path) => Settings::load(path).map_err(|e| Failure::said(e.to_string()))?,
        None => Settings::default(),
    };
    set_some(&mut settings.name, args.name.as_ref());
    set_some(&mut settings.data, args.data.as_ref());
    set(
        &mut settings.ack,
        args.ack.map(|ack| match ack {
            args::Ack::Memory => settings::Ack::Memory,
            args::Ack::Disk => settings::Ack::Disk,
        }),
    );
    set(&mut settings.link.listen, args.listen);
    set_some(&mut settings.link.advertise, args.advertise.as_ref());
    set_list(&mut settings.link.join, &args.join);
    set(&mut settings.link.cluster, args.cluster.clone());
    set_some(&mut settings.tls.ca, args.tls_ca.as_ref());
    set_some(&mut settings.tls.cert, args.tls_cert.as_ref());
    set_some(&mut settings.tls.key, args.tls_key.as_ref());
    set_list(&mut settings.sip.listen, &args.sip);
    set_some(&mut settings.sip.advertise, args.sip_advertise.as_ref());
    set_list(&mut settings.dmq.peers, &args.dmq_peer);
    set(
        &mut settings.dmq.mode,
        args.dmq_mode.map(|mode| match mode {
            args::Mode::Bridge => settings::Mode::Bridge,
            args::Mode::Mesh => settings::Mode::Mesh,
        }),
    );
    set(&mut settings.admin.listen, args.admin);
    set(
        &mut settings.log.level,
        args.log.map(|log| match log {
            args::Log::Error => settings::Level::Error,
            args::Log::Warn => settings::Level::Warn,
            args::Log::Info => settings::Level::Info,
            args::Log::Debug => settings::Level::Debug,
            args::Log::Trace => settings::Level::Trace,
        }),
    );
    Ok(settings)
}

fn set<T>(key: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *key = value;
    }
}

fn set_some<T: Clone>(key: &mut Option<T>, flag: Option<&T>) {
    if let Some(value) = flag {
        *key = Some(value.clone());
    }
}

/// A flag that may be repeated replaces the whole list.
fn set_list<T: Clone>(key: &mut Vec<T>, flags: &[T]) {
    if !flags.is_empty() {
        *key = flags.to_vec();
    }
}

fn level(level: settings::Level) -> Level {
    match level {
        settings::Level::Error => Level::ERROR,
        settings::Level::Warn => Level::WARN,
        settings::Level::Info => Level::INFO,
        settings::Level::Debug => Level::DEBUG,
        settings::Level::Trace => Level::TRACE,
    }
}
