//! `umbel admin policy delivery`: the document of docs/delivery.md, as a file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use reqwest::Method;
use umbel_delivery::{Document, Rules};

use super::Session;
use crate::{
    exit::{Failure, Status},
    rest::segment,
    show,
};

#[derive(Debug, Args)]
pub(in crate::admin) struct Delivery {
    site: String,
    /// Set it from this TOML file, described in docs/delivery.md; an empty file takes all rules away
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Delivery {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let path = format!("sites/{}/delivery", segment(&self.site));
        let answer = match &self.file {
            Some(file) => session.api.call(Method::PUT, &path, Some(serde_json::to_value(read(file)?)?)).await?,
            None => session.api.get(&path).await?,
        };
        if session.json {
            return show::json(&answer);
        }
        let document: Document =
            serde_json::from_value(answer).context("the control plane has rules that this program does not know")?;
        show::line(toml::to_string(&document)?.trim_end())
    }
}

/// Its mistakes are told with the file's name, and before anything is sent.
fn read(file: &Path) -> anyhow::Result<Document> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let wrong = |error: &dyn std::fmt::Display| Failure::error(Status::Usage, format!("{name}: {error}"));
    let document: Document = toml::from_str(&text).map_err(|error| wrong(&error))?;
    match Rules::of(&document) {
        Ok(_) => Ok(document),
        Err(mistakes) => Err(wrong(&mistakes.to_string().replace('\n', &format!("\n{name}: ")))),
    }
}
