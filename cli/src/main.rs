//! The `umbel` command: everything a person or an init system starts.
//!
//! It decides how the parts are started, what people see and with which status a command ends; what the parts do is in
//! their own crates. Start with [`args`] for the tree of commands; each has a file of its name.

mod admin;
mod agent;
mod args;
mod control_plane;
mod demo;
mod edge;
mod exit;
mod get;
mod grant;
mod publish;
mod purge;
mod rest;
mod runtime;
mod serve;
mod settings;
mod show;
mod sim;
mod warm;

use std::process::ExitCode;

use clap::Parser;

/// Bodies and their pieces come and go by the hundred kilobytes, on several threads. glibc gives each back to the kernel at once and gets
/// it again, page fault by page fault: a quarter of the time of a miss. `.cargo/config.toml` says how soon this one does.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = args::Cli::parse().command;
    let as_json = command.answers_as_json();
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, as_json),
    }
}
