//! A layer in AWS: what the lock or else AWS says that it is, and its archive in the store.
//!
//! AWS is asked for no more than is missing: a layer that the lock has and the store too costs no request. Where the
//! archive lies AWS says with each answer, and nothing of ours goes there.

use std::path::Path;

use super::{Error, wrong};
use crate::aws::layers::{LayerArn, LayerVersion};
use crate::build::pins::LayerPin;
use crate::build::{Error as BuildError, Tools};
use crate::digest::Digest;
use crate::http::Url;
use crate::plan::Plan;
use crate::plan::image::Extension;
use crate::progress::Progress;
use crate::python::credentials::Credentials;
use crate::python::fetch;
use crate::python::lock::{Location, LockedFile};

/// What a layer is, and what AWS said of it if it was asked.
///
/// # Errors
/// Those of AWS, as [`BuildError::Extension`], and of a lock that must not change.
pub(super) async fn resolve(
    arn: &LayerArn,
    extension: &Extension,
    plan: &Plan,
    tools: &Tools,
) -> Result<(LayerPin, Option<LayerVersion>), BuildError> {
    let (layer, said) = if let Some(layer) = tools.pins.layer(arn)? {
        (layer, None)
    } else {
        let said = ask(arn, extension, tools).await?;
        (pin_of(arn, &said), Some(said))
    };
    tell_unfit(&layer, arn, plan, &tools.progress);
    Ok((layer, said))
}

/// Brings a layer's archive into the store.
///
/// # Errors
/// Those of AWS and of fetching, as [`BuildError::Extension`], and of a lock that must not change.
pub(super) async fn fetch(
    arn: &LayerArn,
    extension: &Extension,
    plan: &Plan,
    tools: &Tools,
) -> Result<Digest, BuildError> {
    let (LayerPin { digest, size, .. }, said) = resolve(arn, extension, plan, tools).await?;
    let store = tools.store.clone();
    // The modes in an archive have no check sum of their own.
    let is_whole = move || store.contains(&digest, size) && store.prove(&digest).is_ok();
    if tools.block(is_whole).await? {
        return Ok(digest);
    }
    let said = match said {
        Some(said) => said,
        None => ask(arn, extension, tools).await?,
    };
    let Ok(url) = Url::parse(said.location.reveal()) else {
        unreachable!("an answer is read with its address");
    };
    let file = LockedFile {
        package: format!("the layer {}", arn.name()),
        filename: arn.filename(),
        location: Location::Url(url),
        digest,
        size: Some(size),
    };
    // The address alone lets us in, and nobody but AWS is to have the user's credentials.
    let (client, nobody, here) = (&tools.client, Credentials::default(), Path::new(""));
    let files = [file];
    let fetched = fetch::fetch(client, &nobody, &tools.store, here, &files, &tools.progress);
    let fetched = fetched.await.map_err(not_as_said);
    fetched.map_err(|error| wrong(extension, error))?;
    Ok(digest)
}

/// Nothing is fetched before AWS has said what it is, whether there is a lock or not.
fn not_as_said(error: fetch::Error) -> Error {
    match error {
        fetch::Error::Hash {
            package: layer,
            file,
            from,
            mismatch,
        } => Error::Archive {
            layer,
            file,
            from,
            mismatch,
        },
        other => other.into(),
    }
}

/// What AWS says of a layer, which is what the lock says if that does.
async fn ask(
    arn: &LayerArn,
    extension: &Extension,
    tools: &Tools,
) -> Result<LayerVersion, BuildError> {
    let said = Box::pin(tools.aws.layer_version(arn)).await;
    let said = said.map_err(|error| wrong(extension, error))?;
    tools.pins.settle_layer(pin_of(arn, &said))?;
    Ok(said)
}

fn pin_of(arn: &LayerArn, said: &LayerVersion) -> LayerPin {
    LayerPin {
        arn: arn.to_string(),
        digest: said.digest,
        size: said.size,
        architectures: said.architectures.clone(),
        runtimes: said.runtimes.clone(),
    }
}

/// Warns of a layer that says it is for others.
fn tell_unfit(layer: &LayerPin, arn: &LayerArn, plan: &Plan, progress: &Progress) {
    let architecture = plan.architecture.to_string();
    let runtime = format!("python{}", plan.runtime.python);
    for (list, own) in [
        (&layer.architectures, architecture),
        (&layer.runtimes, runtime),
    ] {
        if !list.is_empty() && !list.contains(&own) {
            progress.warn(format!(
                "the layer {} says that it is for {}, and the function is for {own}",
                arn.name(),
                list.join(", ")
            ));
        }
    }
}
