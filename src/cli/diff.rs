//! The verb `diff`: what has changed from one image to another, in human terms.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lambimg::build::changes::{Changes, Pair};
use lambimg::build::checking;
use lambimg::config::Config;
use lambimg::http;
use lambimg::lambda::Architecture;
use lambimg::plan;

use crate::Arguments;
use crate::block_on;
use crate::changes::Compared;
use crate::failure::{self, Failure};
use crate::limit_store;
use crate::proof::tools_for_images;
use crate::surroundings;
use crate::terminal::Terminal;
use crate::text_flag;

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The first image, the older: a name in the store, oci:DIR, oci-archive:FILE, docker-archive:FILE or a registry
    /// reference behind `docker://`
    #[arg(value_name = "A")]
    first: String,

    /// The second image, in any of these forms
    #[arg(value_name = "B")]
    second: String,

    /// Which image of an index: x86_64 or arm64
    #[arg(long)]
    arch: Option<String>,

    /// Exit with 1 where something changed
    #[arg(long)]
    exit_code: bool,

    /// Use no network
    #[arg(long)]
    offline: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: DiffFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum DiffFormat {
    /// For people; `-v` shows long lists whole
    #[default]
    Text,
    /// For programs; see docs/diff.md
    Json,
    /// For a pull request
    Markdown,
}

/// Compares two images.
pub(crate) fn diff(
    arguments: &Arguments,
    wanted: &DiffArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let asked = Config {
        arch: text_flag(wanted.arch.as_ref(), "--arch"),
        ..Config::default()
    };
    let architecture = plan::wanted_architecture(&asked)?.map(Architecture::oci);
    let tools = tools_for_images(arguments, wanted.offline, terminal)?;
    let limit = surroundings::cache_limit()?;
    let today = surroundings::today();
    let work = async {
        let texts = [&*wanted.first, &*wanted.second];
        let [first, second] = checking::open_two(texts, architecture, &today, &tools).await?;
        let (first, of_first) = checking::judge(first, &tools).await?;
        let (second, of_second) = checking::judge(second, &tools).await?;
        let compare = move || Changes::between((&first, &of_first), (&second, &of_second));
        tools.block(compare).await
    };
    let changes = block_on(work)?;
    limit_store(limit, &tools, terminal);
    let compared = Compared {
        names: Pair::new(
            http::redact_name(&wanted.first),
            http::redact_name(&wanted.second),
        ),
        changes: &changes?,
    };
    compared.warn(terminal);
    terminal.print(&match wanted.format {
        DiffFormat::Text => compared.text(terminal),
        DiffFormat::Json => compared.json(),
        DiffFormat::Markdown => compared.markdown(),
    })?;
    let differs = !compared.changes.is_empty();
    Ok(if wanted.exit_code && differs {
        ExitCode::from(failure::REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}
