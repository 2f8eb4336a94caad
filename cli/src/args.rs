//! The tree of commands.

use clap::{Parser, Subcommand};

use crate::{
    admin::AdminArgs, agent::AgentCommand, control_plane::ControlPlaneCommand, demo, edge::EdgeCommand, get::GetArgs,
    grant::GrantCommand, publish::PublishArgs, purge::PurgeArgs, serve::ServiceCommand, sim::SimArgs, warm::WarmArgs,
};

/// A content delivery network with a managed peer-to-peer last mile.
#[derive(Debug, Parser)]
#[command(name = "umbel", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch a file, from an edge and from peers at once
    Get(GetArgs),
    /// Publish a folder to a site; only what changed is sent
    Publish(PublishArgs),
    /// Have edges forget, or validate, what they have stored of a site
    Purge(PurgeArgs),
    /// Have edges fetch before readers ask
    Warm(WarmArgs),
    /// Let readers in: keys and grants of a provider
    #[command(subcommand)]
    Grant(GrantCommand),
    /// The agent on this machine
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Run an installation: accounts, sites, nodes, agents, usage
    Admin(AdminArgs),
    /// A whole network on this machine, with real content going through it
    Demo(demo::DemoArgs),
    /// What a swarm of any size would do, computed
    Sim(SimArgs),
    /// The control plane: accounts, certificates, configuration, the books
    #[command(subcommand)]
    ControlPlane(ControlPlaneCommand),
    /// An origin: takes content in from providers, and gives it to edges
    #[command(subcommand)]
    Origin(ServiceCommand),
    /// An edge: answers readers and agents, and lets agents help each other
    #[command(subcommand)]
    Edge(EdgeCommand),
    #[command(hide = true)]
    DemoPostgres(demo::PostgresArgs),
}

impl Command {
    /// Whether standard output is for a program; `umbel get` says by itself what becomes of its content.
    pub(crate) fn answers_as_json(&self) -> bool {
        match self {
            Self::Publish(args) => args.json,
            Self::Purge(args) => args.json,
            Self::Warm(args) => args.json,
            Self::Grant(command) => command.answers_as_json(),
            Self::Agent(command) => command.answers_as_json(),
            Self::Admin(args) => args.json,
            Self::Demo(args) => args.json,
            Self::Sim(args) => args.json,
            Self::ControlPlane(command) => command.answers_as_json(),
            Self::Get(_) | Self::Origin(_) | Self::Edge(_) | Self::DemoPostgres(_) => false,
        }
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Get(args) => args.run(),
            Self::Publish(args) => args.run(),
            Self::Purge(args) => args.run(),
            Self::Warm(args) => args.run(),
            Self::Grant(command) => command.run(),
            Self::Agent(command) => command.run(),
            Self::Admin(args) => args.run(),
            Self::Demo(args) => args.run(),
            Self::Sim(args) => args.run(),
            Self::ControlPlane(command) => command.run(),
            Self::Origin(command) => command.run("UMBEL_ORIGIN", umbel_origin::Config::read, umbel_origin::run),
            Self::Edge(command) => command.run(),
            Self::DemoPostgres(args) => args.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
